package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin/pluginpb"
	"google.golang.org/grpc"
)

// announceTimeout bounds one announcement.
const announceTimeout = 10 * time.Second

// Discovery returns the plugin as a discovery. A Watch ends with an error
// that [ErrGone] is in when the plugin does.
func (c *Client) Discovery() (sdk.Discovery, error) {
	if err := c.want(KindDiscovery); err != nil {
		return nil, err
	}
	return &discoveryClient{c, pluginpb.NewDiscoveryClient(c.cc)}, nil
}

type discoveryClient struct {
	*Client
	rpc pluginpb.DiscoveryClient
}

// Announce checks the limits and passes on.
func (d *discoveryClient) Announce(ctx context.Context, self []sdk.Envelope) error {
	if err := checkEnvelopes(self); err != nil {
		return d.errorf(sdk.CodeTooLarge, "announce: %v", err)
	}
	req := &pluginpb.AnnounceRequest{}
	for _, e := range self {
		req.Envelopes = append(req.Envelopes, e)
	}
	ctx, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	_, err := d.rpc.Announce(ctx, req)
	return d.fromStatus(ctx, err, "announce")
}

func checkEnvelopes(self []sdk.Envelope) error {
	if len(self) > sdk.MaxEnvelopes {
		return fmt.Errorf("%d envelopes: at most %d", len(self), sdk.MaxEnvelopes)
	}
	for i, e := range self {
		if len(e) == 0 || len(e) > sdk.MaxEnvelope {
			return fmt.Errorf("envelope %d of %d bytes: want 1 to %d", i, len(e), sdk.MaxEnvelope)
		}
	}
	return nil
}

// Watch receives the plugin's stream and believes only well-formed events in
// the right order.
func (d *discoveryClient) Watch(ctx context.Context, saw func(sdk.Event)) error {
	ctx2, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := d.rpc.Watch(ctx2, &pluginpb.WatchRequest{})
	if err != nil {
		return d.watchEnd(ctx, err)
	}
	synced := false
	for {
		m, err := stream.Recv()
		if err != nil {
			return d.watchEnd(ctx, err)
		}
		event, err := eventOf(m)
		if err == nil && event.Kind == sdk.EventSynced && synced {
			err = errors.New("synced twice")
		}
		if err != nil {
			return d.badAnswer("watch", "%v", err)
		}
		synced = synced || event.Kind == sdk.EventSynced
		saw(event)
	}
}

func (d *discoveryClient) watchEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return d.errorf(sdk.CodeUnavailable, "watch: the plugin ended it")
	}
	return d.fromStatus(ctx, err, "watch")
}

func eventOf(m *pluginpb.WatchEvent) (sdk.Event, error) {
	e := sdk.Event{Kind: sdk.EventKind(m.GetKind()), Envelope: m.GetEnvelope(), Origin: clip(m.GetOrigin(), maxOrigin)}
	switch n := len(e.Envelope); {
	case m.GetKind() < 1 || m.GetKind() > uint32(sdk.EventGone):
		return e, fmt.Errorf("event of kind %d", m.GetKind())
	case len(m.GetOrigin()) > maxOrigin:
		return e, fmt.Errorf("origin of %d bytes", len(m.GetOrigin()))
	case n > sdk.MaxEnvelope, n == 0 && e.Kind == sdk.EventSeen, n > 0 && e.Kind == sdk.EventSynced:
		return e, fmt.Errorf("event of kind %d with an envelope of %d bytes", e.Kind, n)
	}
	return e, nil
}

// discoveryServer serves an author's discovery.
type discoveryServer struct {
	pluginpb.UnimplementedDiscoveryServer
	*server
}

func (d *discoveryServer) Announce(ctx context.Context, req *pluginpb.AnnounceRequest) (*pluginpb.AnnounceReply, error) {
	disc, err := opened[sdk.Discovery](d.server)
	if err != nil {
		return nil, err
	}
	self := make([]sdk.Envelope, len(req.GetEnvelopes()))
	for i, e := range req.GetEnvelopes() {
		self[i] = e
	}
	if err := checkEnvelopes(self); err != nil {
		return nil, sdk.Errorf(sdk.CodeTooLarge, "%v", err)
	}
	return &pluginpb.AnnounceReply{}, disc.Announce(ctx, self)
}

func (d *discoveryServer) Watch(_ *pluginpb.WatchRequest, stream grpc.ServerStreamingServer[pluginpb.WatchEvent]) error {
	disc, err := opened[sdk.Discovery](d.server)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()
	var mu sync.Mutex // an author may call saw from several goroutines
	return disc.Watch(ctx, func(e sdk.Event) {
		mu.Lock()
		defer mu.Unlock()
		err := stream.Send(&pluginpb.WatchEvent{Kind: uint32(e.Kind), Envelope: e.Envelope, Origin: clip(e.Origin, maxOrigin)})
		if err != nil {
			cancel()
		}
	})
}
