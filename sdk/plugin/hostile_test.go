package plugin_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/pluginpb"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A hostile plugin speaks the wire by itself and breaks it somewhere.
type hostile struct {
	pluginpb.UnimplementedControlServer
	pluginpb.UnimplementedTransportServer
	pluginpb.UnimplementedDiscoveryServer
	pluginpb.UnimplementedLedgerServer
	pluginpb.UnimplementedBillingServer
	side *channel.Conn

	describe *pluginpb.DescribeReply
	kind     plugin.Kind
	dial     func(h *hostile, token uint64) (*pluginpb.DialReply, error)
	listen   func(h *hostile, stream grpc.BidiStreamingServer[pluginpb.ListenRequest, pluginpb.ListenReply]) error
	watch    []*pluginpb.WatchEvent
	head     *pluginpb.Head
	read     []*pluginpb.Record
	balances []*pluginpb.BalancesPart
	place    *pluginpb.Placement
	readings []*pluginpb.Reading
}

func (h *hostile) serve() {
	side, err := channel.FromFD(3)
	if err != nil {
		panic(err)
	}
	h.side = side
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  goplugin.HandshakeConfig{ProtocolVersion: 1, MagicCookieKey: "CELLKERNEL_PLUGIN", MagicCookieValue: "cellkernel.plugin.v1"},
		VersionedPlugins: map[int]goplugin.PluginSet{1: {"plugin": h}},
		GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(o, grpc.MaxSendMsgSize(64<<20))...)
		},
	})
}

func (h *hostile) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	pluginpb.RegisterControlServer(s, h)
	pluginpb.RegisterTransportServer(s, transportOf{h: h})
	pluginpb.RegisterDiscoveryServer(s, discoveryOf{h: h})
	pluginpb.RegisterLedgerServer(s, ledgerOf{h: h})
	pluginpb.RegisterBillingServer(s, billingOf{h: h})
	return nil
}

func (h *hostile) GRPCClient(context.Context, *goplugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, nil
}
func (h *hostile) Server(*goplugin.MuxBroker) (any, error)              { return nil, nil }
func (h *hostile) Client(*goplugin.MuxBroker, *rpc.Client) (any, error) { return nil, nil }

func (h *hostile) Describe(context.Context, *pluginpb.DescribeRequest) (*pluginpb.DescribeReply, error) {
	if h.describe != nil {
		return h.describe, nil
	}
	return &pluginpb.DescribeReply{Kind: string(h.kind), Name: "hostile"}, nil
}

func (h *hostile) Open(context.Context, *pluginpb.OpenRequest) (*pluginpb.OpenReply, error) {
	return &pluginpb.OpenReply{}, nil
}

func (h *hostile) Drain(context.Context, *pluginpb.DrainRequest) (*pluginpb.DrainReply, error) {
	return &pluginpb.DrainReply{}, nil
}

// send sends files under a token, any number of them.
func (h *hostile) send(token uint64, files ...*os.File) {
	msg, _ := json.Marshal(map[string]any{"type": "fd", "token": token})
	if err := h.side.Send(msg, files...); err != nil {
		panic(err)
	}
}

type transportOf struct {
	pluginpb.UnimplementedTransportServer
	h *hostile
}

func (t transportOf) Dial(_ context.Context, req *pluginpb.DialRequest) (*pluginpb.DialReply, error) {
	return t.h.dial(t.h, req.GetToken())
}

func (t transportOf) Listen(stream grpc.BidiStreamingServer[pluginpb.ListenRequest, pluginpb.ListenReply]) error {
	return t.h.listen(t.h, stream)
}

type discoveryOf struct {
	pluginpb.UnimplementedDiscoveryServer
	h *hostile
}

func (d discoveryOf) Watch(_ *pluginpb.WatchRequest, stream grpc.ServerStreamingServer[pluginpb.WatchEvent]) error {
	for _, e := range d.h.watch {
		if err := stream.Send(e); err != nil {
			return err
		}
	}
	<-stream.Context().Done()
	return nil
}

type ledgerOf struct {
	pluginpb.UnimplementedLedgerServer
	h *hostile
}

func (l ledgerOf) Open(context.Context, *pluginpb.OpenLedgerRequest) (*pluginpb.Head, error) {
	return l.h.head, nil
}

func (l ledgerOf) Read(_ *pluginpb.ReadRequest, stream grpc.ServerStreamingServer[pluginpb.ReadBatch]) error {
	return stream.Send(&pluginpb.ReadBatch{Records: l.h.read})
}

func (l ledgerOf) Balances(_ *pluginpb.BalancesRequest, stream grpc.ServerStreamingServer[pluginpb.BalancesPart]) error {
	for _, p := range l.h.balances {
		if err := stream.Send(p); err != nil {
			return err
		}
	}
	return nil
}

type billingOf struct {
	pluginpb.UnimplementedBillingServer
	h *hostile
}

func (b billingOf) Place(context.Context, *pluginpb.PlaceRequest) (*pluginpb.Placement, error) {
	return b.h.place, nil
}

func (b billingOf) Usage(context.Context, *pluginpb.UsageRequest) (*pluginpb.UsageReply, error) {
	return &pluginpb.UsageReply{Readings: b.h.readings}, nil
}

func (b billingOf) Close(context.Context, *pluginpb.CloseRequest) (*pluginpb.Reading, error) {
	return b.h.readings[0], nil
}

func pipeEnd() *os.File {
	r, _, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	return r
}

func listeningSocket() *os.File {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		panic(err)
	}
	return f
}

func dials(send func(h *hostile, token uint64), peer *pluginpb.Peer) *hostile {
	return &hostile{kind: plugin.KindTransport, dial: func(h *hostile, token uint64) (*pluginpb.DialReply, error) {
		send(h, token)
		return &pluginpb.DialReply{Peer: peer}, nil
	}}
}

var hash = make([]byte, 32)

func hostiles() map[string]*hostile {
	head := &pluginpb.Head{Seq: 1, Hash: hash}
	posting := func(account string, amount int64) *pluginpb.Posting {
		return &pluginpb.Posting{Account: account, Amount: amount}
	}
	return map[string]*hostile{
		"huge":        {describe: &pluginpb.DescribeReply{Kind: "billing", Name: "huge"}, place: &pluginpb.Placement{Note: strings.Repeat("x", 5<<20)}},
		"bad-kind":    {describe: &pluginpb.DescribeReply{Kind: "virus\n", Name: "a"}},
		"bad-name":    {describe: &pluginpb.DescribeReply{Kind: "billing", Name: "../../etc"}},
		"bad-version": {describe: &pluginpb.DescribeReply{Kind: "billing", Name: "a", Version: strings.Repeat("1", 1000)}},

		"fd-none":      dials(func(*hostile, uint64) {}, nil),
		"fd-pipe":      dials(func(h *hostile, k uint64) { h.send(k, pipeEnd()) }, nil),
		"fd-listener":  dials(func(h *hostile, k uint64) { h.send(k, listeningSocket()) }, nil),
		"fd-two":       dials(func(h *hostile, k uint64) { h.send(k, pipeEnd(), pipeEnd()) }, nil),
		"fd-five":      dials(func(h *hostile, k uint64) { h.send(k, pipeEnd(), pipeEnd(), pipeEnd(), pipeEnd()) }, nil),
		"fd-stranger":  dials(func(h *hostile, k uint64) { h.send(k+77, listeningSocket()) }, nil),
		"fd-garbage":   dials(func(h *hostile, _ uint64) { h.side.Send([]byte("\x00not json"), pipeEnd()) }, nil),
		"dial-binding": dials(func(h *hostile, k uint64) { h.send(k, connected()) }, &pluginpb.Peer{Binding: []byte("short")}),
		"dial-addr":    dials(func(h *hostile, k uint64) { h.send(k, connected()) }, &pluginpb.Peer{Remote: strings.Repeat("a", 10_000)}),
		"dial-code": {kind: plugin.KindTransport, dial: func(*hostile, uint64) (*pluginpb.DialReply, error) {
			st, _ := status.New(codes.Unknown, "x").WithDetails(&pluginpb.Failure{Code: 200, Text: "lies"})
			return nil, st.Err()
		}},
		"listen-host":   {kind: plugin.KindTransport, listen: opens(strings.Repeat("h", 600), nil)},
		"listen-hint":   {kind: plugin.KindTransport, listen: opens("h", make([]byte, 65))},
		"listen-token":  {kind: plugin.KindTransport, listen: opens("h", nil, 999_999)},
		"listen-reuse":  {kind: plugin.KindTransport, listen: opens("h", nil, 0)},
		"watch-kind":    {kind: plugin.KindDiscovery, watch: []*pluginpb.WatchEvent{{Kind: 9}}},
		"watch-large":   {kind: plugin.KindDiscovery, watch: []*pluginpb.WatchEvent{{Kind: 1, Envelope: make([]byte, sdk.MaxEnvelope+1)}}},
		"watch-empty":   {kind: plugin.KindDiscovery, watch: []*pluginpb.WatchEvent{{Kind: 1}}},
		"watch-synced":  {kind: plugin.KindDiscovery, watch: []*pluginpb.WatchEvent{{Kind: 2}, {Kind: 2}}},
		"watch-origin":  {kind: plugin.KindDiscovery, watch: []*pluginpb.WatchEvent{{Kind: 1, Envelope: []byte("x"), Origin: strings.Repeat("o", 300)}}},
		"head-hash":     {kind: plugin.KindLedger, head: &pluginpb.Head{Seq: 1, Hash: []byte("short")}},
		"head-empty":    {kind: plugin.KindLedger, head: &pluginpb.Head{Hash: []byte(strings.Repeat("h", 32))}},
		"read-gap":      {kind: plugin.KindLedger, read: []*pluginpb.Record{{Seq: 1, Id: hash[:16]}, {Seq: 3, Id: hash[:16]}}},
		"read-id":       {kind: plugin.KindLedger, read: []*pluginpb.Record{{Seq: 1, Id: []byte("x")}}},
		"read-body":     {kind: plugin.KindLedger, read: []*pluginpb.Record{{Seq: 1, Id: hash[:16], Body: make([]byte, sdk.MaxRecord+1)}}},
		"read-sum":      {kind: plugin.KindLedger, read: []*pluginpb.Record{{Seq: 1, Id: hash[:16], Postings: []*pluginpb.Posting{posting("a", 1)}}}},
		"read-overflow": {kind: plugin.KindLedger, read: []*pluginpb.Record{{Seq: 1, Id: hash[:16], Postings: []*pluginpb.Posting{posting("a", 1<<62), posting("b", 1<<62), posting("c", 1<<62), posting("d", 1<<62)}}}},
		"read-account":  {kind: plugin.KindLedger, read: []*pluginpb.Record{{Seq: 1, Id: hash[:16], Postings: []*pluginpb.Posting{posting("a\n", 0)}}}},
		"read-many":     {kind: plugin.KindLedger, read: make([]*pluginpb.Record, 300)},
		"bal-none":      {kind: plugin.KindLedger},
		"bal-heads":     {kind: plugin.KindLedger, balances: []*pluginpb.BalancesPart{{Head: head}, {Head: &pluginpb.Head{Seq: 2, Hash: hash}}}},
		"bal-twice":     {kind: plugin.KindLedger, balances: []*pluginpb.BalancesPart{{Head: head, Balances: []*pluginpb.Posting{posting("a", 0), posting("a", 0)}}}},
		"bal-sum":       {kind: plugin.KindLedger, balances: []*pluginpb.BalancesPart{{Head: head, Balances: []*pluginpb.Posting{posting("a", 5), posting("b", -4)}}}},
		"bal-overflow":  {kind: plugin.KindLedger, balances: []*pluginpb.BalancesPart{{Head: head, Balances: []*pluginpb.Posting{posting("a", 1<<62), posting("b", 1<<62), posting("c", 1<<62), posting("d", 1<<62)}}}},
		"place-path":    {kind: plugin.KindBilling, place: &pluginpb.Placement{Cgroup: "/sys/fs/cgroup/../../etc"}},
		"place-source":  {kind: plugin.KindBilling, place: &pluginpb.Placement{Source: "a\x1b[31m"}},
		"usage-other":   {kind: plugin.KindBilling, readings: []*pluginpb.Reading{{Id: "other"}}},
		"usage-twice":   {kind: plugin.KindBilling, readings: []*pluginpb.Reading{{Id: "a"}, {Id: "a"}}},
		"usage-minus":   {kind: plugin.KindBilling, readings: []*pluginpb.Reading{{Id: "a", CpuNs: -1}}},
	}
}

// connected is one end of a stream socket pair whose other end is kept open.
func connected() *os.File {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		panic(err)
	}
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		panic(err)
	}
	return f
}

// opens answers a Listen and then accepts under the given tokens, 0 for one
// that was granted and is used twice.
func opens(host string, hint []byte, tokens ...uint64) func(*hostile, grpc.BidiStreamingServer[pluginpb.ListenRequest, pluginpb.ListenReply]) error {
	return func(h *hostile, stream grpc.BidiStreamingServer[pluginpb.ListenRequest, pluginpb.ListenReply]) error {
		stream.Recv()
		stream.Send(&pluginpb.ListenReply{Kind: &pluginpb.ListenReply_Opened{Opened: &pluginpb.Opened{Host: host, Hint: hint}}})
		granted, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, token := range tokens {
			if token == 0 {
				token = granted.GetGrant().GetTokens()[0]
				accepted(h, stream, token)
			}
			accepted(h, stream, token)
		}
		<-stream.Context().Done()
		return nil
	}
}

func accepted(h *hostile, stream grpc.BidiStreamingServer[pluginpb.ListenRequest, pluginpb.ListenReply], token uint64) {
	h.send(token, connected())
	stream.Send(&pluginpb.ListenReply{Kind: &pluginpb.ListenReply_Accepted{Accepted: &pluginpb.Accepted{Token: token}}})
}

// exercise calls what a hostile plugin lies about and returns the error.
func exercise(ctx context.Context, name string, c *plugin.Client) error {
	what, _, _ := strings.Cut(name, "-")
	switch what {
	case "fd", "dial":
		tr, err := c.Transport()
		if err == nil {
			_, err = tr.Dial(ctx, sdk.Addr{Scheme: "hostile", Host: "x"})
		}
		return err
	case "listen":
		tr, err := c.Transport()
		if err != nil {
			return err
		}
		l, err := tr.Listen(ctx, sdk.Addr{Scheme: "hostile", Host: "x"})
		for err == nil {
			var conn net.Conn
			if conn, err = l.Accept(); err == nil {
				conn.Close()
			}
		}
		return err
	case "watch":
		d, err := c.Discovery()
		if err == nil {
			err = d.Watch(ctx, func(sdk.Event) {})
		}
		return err
	case "head", "read", "bal":
		return exerciseLedger(ctx, what, c)
	}
	b, err := c.Billing()
	if err != nil {
		return err
	}
	if what == "place" {
		_, err = b.Place(ctx, sdk.Workload{ID: "a"})
		return err
	}
	_, err = b.Usage(ctx, []sdk.Running{{ID: "a", PID: 1}})
	return err
}

func exerciseLedger(ctx context.Context, what string, c *plugin.Client) error {
	l, err := c.Ledger()
	if err != nil {
		return err
	}
	switch what {
	case "head":
		_, err = l.Open(ctx)
	case "read":
		err = l.Read(ctx, 0, func(sdk.Record) bool { return true })
	default:
		_, _, err = l.Balances(ctx)
	}
	return err
}

// A lie is an error that names the plugin, and hurts nothing else.
func TestHostileAnswers(t *testing.T) {
	check := noLeaks(t)
	dir := shortDir(t)
	for name, h := range hostiles() {
		if name == "huge" { // see T18
			continue
		}
		t.Run(name, func(t *testing.T) {
			c, err := plugin.Start(t.Context(), plugin.Command{Path: self(t)}, plugin.Options{RunDir: dir, Env: []string{role + "=" + name}})
			if h.describe != nil {
				if err == nil {
					t.Error("it was believed")
					c.Kill()
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Kill()
			err = exercise(t.Context(), name, c)
			prefix := fmt.Sprintf("%s(hostile): ", h.kind)
			if err == nil || !strings.HasPrefix(err.Error(), prefix) || strings.Count(err.Error(), prefix) != 1 {
				t.Errorf("got %v, want an error that begins with %q", err, prefix)
			}
			if code := sdk.CodeOf(err); code != sdk.CodeInternal {
				t.Errorf("got code %v, want internal", code)
			}
			if err := c.Ping(t.Context()); err != nil {
				t.Errorf("ping afterwards: %v", err)
			}
		})
	}
	check()
}

func TestHostileStarts(t *testing.T) {
	for name, want := range map[string]string{
		"silent":  "not ready within 5s",
		"exits":   "config file is missing",
		"tcp":     "want a Unix socket in",
		"outside": "want a Unix socket in",
		"old":     "Plugin version: 99",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := launch(t, name, plugin.Options{})
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "cellkernel plugin test "+self(t)) {
				t.Errorf("got %v\nwant %q and what to do", err, want)
			}
		})
	}
	for _, path := range []string{"/nonexistent", "/etc/passwd", "/bin/true", "/bin/cat"} {
		_, err := plugin.Start(t.Context(), plugin.Command{Path: path}, plugin.Options{RunDir: shortDir(t)})
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
		if said := fmt.Sprint(err); path == "/nonexistent" && (!strings.Contains(said, "no such file") || strings.Contains(said, "try `")) {
			t.Errorf("%s: %v", path, err)
		}
	}
	_, err := plugin.Start(t.Context(), plugin.Command{Path: "/proc/self/exe", Args: []string{"-test.run=^$"}},
		plugin.Options{Kind: plugin.KindDiscovery, Instance: "slow", RunDir: shortDir(t), Env: []string{role + "="}})
	if err == nil || !strings.Contains(err.Error(), "start plugin discovery-slow: ") || !strings.Contains(err.Error(), "`cellkernel logs discovery-slow`") {
		t.Errorf("a bundled plugin: got %v", err)
	}
}
