package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin/pluginpb"
)

// Deadlines of a ledger's calls. Opening and summing read the whole book.
const (
	openLedgerTimeout = 60 * time.Second
	appendTimeout     = 30 * time.Second
	readIdle          = 30 * time.Second // between two batches
	balancesTimeout   = 60 * time.Second
)

const (
	recordsPerMessage  = 256
	accountsPerMessage = 1000
	maxAccounts        = 1 << 20 // of one snapshot
)

// Ledger returns the plugin as a ledger.
func (c *Client) Ledger() (sdk.Ledger, error) {
	if err := c.want(KindLedger); err != nil {
		return nil, err
	}
	return &ledgerClient{c, pluginpb.NewLedgerClient(c.cc)}, nil
}

type ledgerClient struct {
	*Client
	rpc pluginpb.LedgerClient
}

// Open recovers the book.
func (l *ledgerClient) Open(ctx context.Context) (sdk.Head, error) {
	ctx, cancel := context.WithTimeout(ctx, openLedgerTimeout)
	defer cancel()
	m, err := l.rpc.Open(ctx, &pluginpb.OpenLedgerRequest{})
	if err != nil {
		return sdk.Head{}, l.fromStatus(ctx, err, "open book")
	}
	return l.head("open book", m)
}

func (l *ledgerClient) head(verb string, m *pluginpb.Head) (sdk.Head, error) {
	h, err := headOf(m)
	if err != nil {
		return sdk.Head{}, l.badAnswer(verb, "%v", err)
	}
	return h, nil
}

// Append sends batch in parts; the plugin stores it when all have arrived.
func (l *ledgerClient) Append(ctx context.Context, after sdk.Head, batch []sdk.Record) (sdk.Head, error) {
	if err := checkBatch(batch); err != nil {
		return sdk.Head{}, l.errorf(sdk.CodeInvalid, "append: %v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	stream, err := l.rpc.Append(ctx)
	if err != nil {
		return sdk.Head{}, l.fromStatus(ctx, err, "append")
	}
	req := &pluginpb.AppendRequest{After: headPB(after)}
	for rest := batch; ; {
		part := rest[:min(len(rest), recordsPerMessage)]
		rest = rest[len(part):]
		for i := range part {
			req.Records = append(req.Records, recordPB(&part[i]))
		}
		// EOF means that the plugin has answered already.
		if err := stream.Send(req); err != nil && !errors.Is(err, io.EOF) {
			return sdk.Head{}, l.fromStatus(ctx, err, "append")
		}
		if len(rest) == 0 {
			break
		}
		req = &pluginpb.AppendRequest{}
	}
	m, err := stream.CloseAndRecv()
	if err != nil {
		return sdk.Head{}, l.fromStatus(ctx, err, "append")
	}
	head, err := l.head("append", m)
	if err == nil && head.Seq < uint64(len(batch)) {
		err = l.badAnswer("append", "%d records end at sequence number %d", len(batch), head.Seq)
	}
	return head, err
}

// Read yields the records of a stream of batches, which must be without gaps.
func (l *ledgerClient) Read(ctx context.Context, from uint64, yield func(sdk.Record) bool) error {
	rctx, cancel := context.WithCancel(ctx)
	defer cancel()
	idle := time.AfterFunc(readIdle, cancel)
	defer idle.Stop()
	stream, err := l.rpc.Read(rctx, &pluginpb.ReadRequest{From: from})
	if err != nil {
		return l.fromStatus(ctx, err, "read")
	}
	next := max(from, 1)
	for {
		idle.Reset(readIdle)
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && rctx.Err() != nil && ctx.Err() == nil {
			return l.errorf(sdk.CodeDeadline, "read: nothing came for %v", readIdle)
		}
		if err != nil {
			return l.fromStatus(ctx, err, "read")
		}
		idle.Stop() // yield takes as long as it likes
		if len(m.GetRecords()) > recordsPerMessage {
			return l.badAnswer("read", "batch of %d records", len(m.GetRecords()))
		}
		for _, r := range m.GetRecords() {
			rec, err := recordOf(r)
			if err == nil && rec.Seq != next {
				err = fmt.Errorf("record %d where %d was due", rec.Seq, next)
			}
			if err != nil {
				return l.badAnswer("read", "%v", err)
			}
			next++
			if !yield(rec) {
				return nil
			}
		}
	}
}

// Balances collects a snapshot, whose sum must be 0 as that of every record is.
func (l *ledgerClient) Balances(ctx context.Context) (sdk.Head, map[sdk.Account]sdk.ATP, error) {
	ctx, cancel := context.WithTimeout(ctx, balancesTimeout)
	defer cancel()
	stream, err := l.rpc.Balances(ctx, &pluginpb.BalancesRequest{})
	if err != nil {
		return sdk.Head{}, nil, l.fromStatus(ctx, err, "balances")
	}
	var head sdk.Head
	balances := map[sdk.Account]sdk.ATP{}
	for parts := 0; ; parts++ {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) && parts > 0 {
			break
		}
		if errors.Is(err, io.EOF) {
			return head, nil, l.badAnswer("balances", "no head")
		}
		if err != nil {
			return head, nil, l.fromStatus(ctx, err, "balances")
		}
		h, err := l.head("balances", m.GetHead())
		if err != nil {
			return head, nil, err
		}
		if parts > 0 && h != head {
			return head, nil, l.badAnswer("balances", "parts of two heads")
		}
		head = h
		if err := addBalances(balances, m.GetBalances()); err != nil {
			return head, nil, l.badAnswer("balances", "%v", err)
		}
	}
	if err := checkSum(balances); err != nil {
		return head, nil, l.badAnswer("balances", "%v", err)
	}
	return head, balances, nil
}

func addBalances(to map[sdk.Account]sdk.ATP, part []*pluginpb.Posting) error {
	if len(part) > accountsPerMessage || len(to)+len(part) > maxAccounts {
		return fmt.Errorf("%d accounts, %d in one part", len(to)+len(part), len(part))
	}
	for _, p := range part {
		a := sdk.Account(p.GetAccount())
		if err := checkAccount(a); err != nil {
			return err
		}
		if _, ok := to[a]; ok {
			return fmt.Errorf("account %q twice", a)
		}
		to[a] = sdk.ATP(p.GetAmount())
	}
	return nil
}

// checkSum adds in 128 bits, so that no set of balances overflows to 0.
func checkSum(balances map[sdk.Account]sdk.ATP) error {
	var high, low uint64
	for _, v := range balances {
		var carry uint64
		low, carry = bits.Add64(low, uint64(v), 0)
		high, _ = bits.Add64(high, uint64(v>>63), carry)
	}
	if high != 0 || low != 0 {
		return errors.New("they do not sum to 0")
	}
	return nil
}

func checkBatch(batch []sdk.Record) error {
	if len(batch) > sdk.MaxBatch {
		return fmt.Errorf("batch of %d records: at most %d", len(batch), sdk.MaxBatch)
	}
	for i := range batch {
		if err := checkRecord(&batch[i]); err != nil {
			return fmt.Errorf("record %d: %w", i, err)
		}
	}
	return nil
}

// checkRecord holds for records in both directions.
func checkRecord(r *sdk.Record) error {
	if len(r.Body) > sdk.MaxRecord || len(r.Postings) > sdk.MaxPostings {
		return fmt.Errorf("body of %d bytes, %d postings: at most %d and %d", len(r.Body), len(r.Postings), sdk.MaxRecord, sdk.MaxPostings)
	}
	sum := sdk.ATP(0)
	for _, p := range r.Postings {
		if err := checkAccount(p.Account); err != nil {
			return err
		}
		// Halves of the range leave room for the sum of eight.
		if p.Amount > math.MaxInt64/sdk.MaxPostings || p.Amount < math.MinInt64/sdk.MaxPostings {
			return fmt.Errorf("amount %d is out of range", int64(p.Amount))
		}
		sum += p.Amount
	}
	if sum != 0 {
		return fmt.Errorf("postings sum to %d, not 0", int64(sum))
	}
	return nil
}

func checkAccount(a sdk.Account) error {
	if len(a) == 0 || len(a) > sdk.MaxAccount {
		return fmt.Errorf("account of %d bytes: want 1 to %d", len(a), sdk.MaxAccount)
	}
	for i := range len(a) {
		if a[i] < ' ' || a[i] > '~' {
			return fmt.Errorf("account %q: want printable ASCII", string(a))
		}
	}
	return nil
}

func headPB(h sdk.Head) *pluginpb.Head { return &pluginpb.Head{Seq: h.Seq, Hash: h.Hash[:]} }

func headOf(m *pluginpb.Head) (sdk.Head, error) {
	if len(m.GetHash()) != 32 {
		return sdk.Head{}, fmt.Errorf("head with a hash of %d bytes", len(m.GetHash()))
	}
	h := sdk.Head{Seq: m.GetSeq(), Hash: [32]byte(m.GetHash())}
	if h.Seq == 0 && h != (sdk.Head{}) {
		return h, errors.New("head of an empty book with a hash")
	}
	return h, nil
}

func recordPB(r *sdk.Record) *pluginpb.Record {
	m := &pluginpb.Record{Seq: r.Seq, Id: r.ID[:], Body: r.Body}
	for _, p := range r.Postings {
		m.Postings = append(m.Postings, &pluginpb.Posting{Account: string(p.Account), Amount: int64(p.Amount)})
	}
	return m
}

func recordOf(m *pluginpb.Record) (sdk.Record, error) {
	if len(m.GetId()) != 16 || len(m.GetPostings()) > sdk.MaxPostings {
		return sdk.Record{}, fmt.Errorf("record %d: id of %d bytes, %d postings", m.GetSeq(), len(m.GetId()), len(m.GetPostings()))
	}
	r := sdk.Record{Seq: m.GetSeq(), ID: sdk.RecordID(m.GetId()), Body: m.GetBody()}
	for _, p := range m.GetPostings() {
		r.Postings = append(r.Postings, sdk.Posting{Account: sdk.Account(p.GetAccount()), Amount: sdk.ATP(p.GetAmount())})
	}
	if err := checkRecord(&r); err != nil {
		return r, fmt.Errorf("record %d: %w", r.Seq, err)
	}
	return r, nil
}
