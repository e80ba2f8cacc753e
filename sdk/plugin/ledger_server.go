package plugin

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin/pluginpb"
	"google.golang.org/grpc"
)

// ledgerServer serves an author's ledger.
type ledgerServer struct {
	pluginpb.UnimplementedLedgerServer
	*server
}

// Open recovers the book. (Control.Open configured the plugin before.)
func (l *ledgerServer) Open(ctx context.Context, _ *pluginpb.OpenLedgerRequest) (*pluginpb.Head, error) {
	book, err := opened[sdk.Ledger](l.server)
	if err != nil {
		return nil, err
	}
	h, err := book.Open(ctx)
	return headPB(h), err
}

// Append collects the whole batch before the ledger sees any of it.
func (l *ledgerServer) Append(stream grpc.ClientStreamingServer[pluginpb.AppendRequest, pluginpb.Head]) error {
	book, err := opened[sdk.Ledger](l.server)
	if err != nil {
		return err
	}
	after, batch, err := receiveBatch(stream)
	if err != nil {
		return err
	}
	h, err := book.Append(stream.Context(), after, batch)
	if err != nil {
		return err
	}
	return stream.SendAndClose(headPB(h))
}

func receiveBatch(stream grpc.ClientStreamingServer[pluginpb.AppendRequest, pluginpb.Head]) (sdk.Head, []sdk.Record, error) {
	var after sdk.Head
	var batch []sdk.Record
	for first := true; ; first = false {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return after, batch, nil
		}
		if err != nil {
			return after, nil, err
		}
		if first {
			if after, err = headOf(req.GetAfter()); err != nil {
				return after, nil, sdk.Errorf(sdk.CodeInvalid, "%v", err)
			}
		}
		if len(batch)+len(req.GetRecords()) > sdk.MaxBatch {
			return after, nil, sdk.Errorf(sdk.CodeTooLarge, "batch of more than %d records", sdk.MaxBatch)
		}
		for _, m := range req.GetRecords() {
			r, err := recordOf(m)
			if err != nil {
				return after, nil, sdk.Errorf(sdk.CodeInvalid, "%v", err)
			}
			batch = append(batch, r)
		}
	}
}

// Read packs records into batches that stay far below the limit of a message.
func (l *ledgerServer) Read(req *pluginpb.ReadRequest, stream grpc.ServerStreamingServer[pluginpb.ReadBatch]) error {
	book, err := opened[sdk.Ledger](l.server)
	if err != nil {
		return err
	}
	batch := &pluginpb.ReadBatch{}
	var sendErr error
	flush := func() bool {
		if len(batch.Records) > 0 {
			sendErr = stream.Send(batch)
			batch = &pluginpb.ReadBatch{}
		}
		return sendErr == nil
	}
	err = book.Read(stream.Context(), req.GetFrom(), func(r sdk.Record) bool {
		batch.Records = append(batch.Records, recordPB(&r))
		return len(batch.Records) < recordsPerMessage || flush()
	})
	if err == nil && sendErr == nil {
		flush()
	}
	return errors.Join(err, sendErr)
}

func (l *ledgerServer) Balances(_ *pluginpb.BalancesRequest, stream grpc.ServerStreamingServer[pluginpb.BalancesPart]) error {
	book, err := opened[sdk.Ledger](l.server)
	if err != nil {
		return err
	}
	head, balances, err := book.Balances(stream.Context())
	if err != nil {
		return err
	}
	accounts := slices.Sorted(maps.Keys(balances))
	for first := true; first || len(accounts) > 0; first = false {
		part := &pluginpb.BalancesPart{Head: headPB(head)}
		n := min(len(accounts), accountsPerMessage)
		for _, a := range accounts[:n] {
			part.Balances = append(part.Balances, &pluginpb.Posting{Account: string(a), Amount: int64(balances[a])})
		}
		accounts = accounts[n:]
		if err := stream.Send(part); err != nil {
			return err
		}
	}
	return nil
}
