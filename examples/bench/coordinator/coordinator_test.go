package main

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/examples/bench/load"
	"github.com/cellkernel/cellkernel/examples/bench/result"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/cell/celltest"
	"google.golang.org/grpc/credentials/insecure"
)

// honest answers as the worker does, without burning anything.
type honest struct{ calls atomic.Uint64 }

func (h *honest) Echo(_ context.Context, ping load.PingView, out *load.Ping) error {
	h.calls.Add(1)
	out.ID, out.Payload = ping.ID(), ping.Payload()
	return nil
}

func (h *honest) Work(_ context.Context, job load.JobView, out *load.Result) error {
	h.calls.Add(1)
	out.ID, out.Processed, out.Checksum = job.ID(), job.Iterations(), load.Checksum(job.Payload())
	return nil
}

func (h *honest) Burn(_ context.Context, task load.TaskView, out *load.Burnt) error {
	h.calls.Add(1)
	out.ID, out.Micros = task.ID(), task.Micros()
	return nil
}

func (h *honest) Count(_ context.Context, _ load.QueryView, out *load.Counts) error {
	out.Replica, out.Calls = 1, h.calls.Load()
	return nil
}

// liar answers the wrong call now and then, or counts what it did not do.
type liar struct {
	honest
	wrong, extra bool
}

func (l *liar) Echo(ctx context.Context, ping load.PingView, out *load.Ping) error {
	err := l.honest.Echo(ctx, ping, out)
	switch {
	case l.wrong && ping.ID()%2 == 0:
		out.ID++
	case l.extra:
		l.calls.Add(1)
	}
	return err
}

func serve(t *testing.T, w load.WorkerViews) *cells {
	k := celltest.New(t)
	k.Serve("worker", func(m *cell.Membrane) { load.RegisterWorkerViews(m, w) })
	return newCells(k.Attach("coordinator"), "worker", 1)
}

// baseline serves in this process what baselineMain serves in its own.
func baseline(t *testing.T, serve func(net.Listener) error) (socket string) {
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = serve(l) // ends with an error when l is closed
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return socket
}

func tlsless(socket string) *grpcServer {
	return &grpcServer{target: "unix:" + socket, creds: insecure.NewCredentials()}
}

// farBaselines serves here what is on the other machine otherwise.
func farBaselines(t *testing.T) *farBase {
	var o farOptions
	for name, said := range map[string]*string{serveTLSGRPC: &o.grpc, serveRawQUIC: &o.quic} {
		b, err := listen(name, "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = b.serve() // ends with an error when it is closed
		}()
		t.Cleanup(func() { b.close(); <-done })
		*said = strings.TrimPrefix(b.ready, ready+" ")
	}
	base, err := newFarBase(o)
	if err != nil {
		t.Fatal(err)
	}
	return base
}

func TestOtherServersAreRefused(t *testing.T) {
	base := farBaselines(t)
	other := farBaselines(t)
	base.grpc.creds, base.quic.tls = other.grpc.creds, other.quic.tls
	for name, v := range map[string]server{"gRPC": base.grpc, "QUIC": base.quic} {
		if _, err := v.count(t.Context()); err == nil || !strings.Contains(err.Error(), "another one") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestFarFlags(t *testing.T) {
	good := "127.0.0.1:1/" + strings.Repeat("00", 32)
	for _, o := range []farOptions{{good, ""}, {"", good}, {"127.0.0.1/" + strings.Repeat("00", 32), good}, {good, "127.0.0.1:1/00"}} {
		if _, err := newFarBase(o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

func TestEverySystemAnswersEveryWorkload(t *testing.T) {
	socket := baseline(t, func(l net.Listener) error { return serveGRPC(l) })
	servers := map[string]server{
		"cells":       serve(t, new(honest)),
		"gRPC shared": tlsless(socket),
		"gRPC each":   tlsless(socket).forEach(),
		"raw":         &rawServer{baseline(t, serveRaw)},
	}
	far := farBaselines(t)
	servers["gRPC over TLS"], servers["QUIC shared"], servers["QUIC each"] = far.grpc, far.quic, far.quic.forEach()
	for name, v := range servers {
		for _, w := range append(originals(), echoes()...) {
			s, err := checked(t.Context(), v, w, limit{calls: 20, time: time.Minute})
			if err != nil {
				t.Fatalf("%s, %s/%d: %v", name, w.name, w.inFlight, err)
			}
			if want := uint64(20 * w.inFlight); s.calls != want || s.errors != 0 {
				t.Errorf("%s, %s/%d: %d calls, %d errors; want %d, 0", name, w.name, w.inFlight, s.calls, s.errors, want)
			}
			if n := uint64(s.latency.TotalCount()); n != s.calls {
				t.Errorf("%s, %s/%d: %d latencies of %d calls", name, w.name, w.inFlight, n, s.calls)
			}
		}
	}
}

func TestWrongRepliesAreErrors(t *testing.T) {
	w := workload{name: "echo", kind: echo, payload: 64, inFlight: 2}
	s, err := checked(t.Context(), serve(t, &liar{wrong: true}), w, limit{calls: 10, time: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if s.calls != 20 || s.errors != 10 {
		t.Errorf("%d calls, %d errors; want 20, 10", s.calls, s.errors)
	}
}

func TestCountersMustAgree(t *testing.T) {
	w := workload{name: "echo", kind: echo, payload: 64, inFlight: 1}
	_, err := checked(t.Context(), serve(t, &liar{extra: true}), w, limit{calls: 10, time: time.Minute})
	if err == nil || !strings.Contains(err.Error(), "but the handlers counted") {
		t.Errorf("got %v", err)
	}
}

func TestRoundsEndByTime(t *testing.T) {
	w := workload{name: "echo", kind: echo, payload: 64, inFlight: 4}
	s, err := checked(t.Context(), serve(t, new(honest)), w, limit{time: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if s.elapsed < 20*time.Millisecond || s.calls < 4 {
		t.Errorf("%d calls in %s", s.calls, s.elapsed)
	}
}

func TestMedianOfRounds(t *testing.T) {
	var rounds []*sample
	for _, ms := range []int64{3, 1, 2} {
		s := &sample{calls: 1000, errors: 1, elapsed: time.Duration(ms) * time.Second, latency: newLatency()}
		if err := s.latency.RecordValues(ms*1e6, 1000); err != nil {
			t.Fatal(err)
		}
		rounds = append(rounds, s)
	}
	row := median(workload{name: "w", payload: 7, inFlight: 3}, result.Raw, rounds)
	if row.Calls != 3000 || row.Errors != 3 || row.CallsPerS != 999.0/2 || row.P50US < 1990 || row.P50US > 2030 {
		t.Errorf("got %+v", row)
	}
}

func TestFlags(t *testing.T) {
	for _, args := range [][]string{{"-rounds", "0"}, {"-replicas", "none"}, {"what"}, {"-round", "-1s"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("parse %q: no error", args)
		}
	}
	o, err := parse([]string{"--quick", "--json", "x", "--replicas", "2"})
	if err != nil || o.json != "x" || o.replicas != 2 || o.rounds != 1 {
		t.Errorf("got %+v, %v", o, err)
	}
}

func TestOneCallerHasMoreAndShorterRounds(t *testing.T) {
	b := &bench{options: options{rounds: 3, round: 500 * time.Millisecond}}
	for _, w := range echoes() {
		rounds, round := 3, 500*time.Millisecond
		if w.inFlight == 1 {
			rounds, round = 9, 200*time.Millisecond
		}
		if n, d := b.roundsOf(w), b.limit(w, result.Raw).time; n != rounds || d != round {
			t.Errorf("%s/%d: %d rounds of %s, want %d of %s", w.name, w.inFlight, n, d, rounds, round)
		}
	}
}
