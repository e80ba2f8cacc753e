package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/admin/admintest"
	"github.com/cellkernel/cellkernel/sdk"
)

// privateDir is a directory in which admin sockets may be; short, because
// socket addresses are.
func privateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ck")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// serve serves f and returns a client of it.
func serve(t *testing.T, f *admintest.Fake) (*admin.Client, string) {
	t.Helper()
	dir := privateDir(t)
	stop, err := f.Serve(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	path := filepath.Join(dir, admin.SocketName)
	c, err := admin.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, path
}

func wantCode(t *testing.T, err error, code sdk.Code, text string) {
	t.Helper()
	if sdk.CodeOf(err) != code || !strings.Contains(fmt.Sprint(err), text) {
		t.Errorf("got error %v (%v), want %v with %q", err, sdk.CodeOf(err), code, text)
	}
}

func wantSame(t *testing.T, what string, got, want any) {
	t.Helper()
	g, _ := json.Marshal(got)
	w, _ := json.Marshal(want)
	if string(g) != string(w) {
		t.Errorf("%s: got %s, want %s", what, g, w)
	}
}

func TestClientSeesWhatTheKernelShows(t *testing.T) {
	f := admintest.New()
	f.Settings = []admin.Setting{{Key: "golgi.links", Value: "8", Origin: "default"}}
	c, _ := serve(t, f)
	ctx := t.Context()
	wantSame(t, "version", c.Version(), f.V)
	if c.PID() != os.Getpid() {
		t.Errorf("pid: got %d, want our own %d", c.PID(), os.Getpid())
	}
	status, err := c.Status(ctx)
	wantSame(t, "status", status, f.S)
	procs, err2 := c.Processes(ctx)
	wantSame(t, "ps", procs, f.Procs)
	plugins, err3 := c.Plugins(ctx)
	wantSame(t, "plugins", plugins, f.Plug)
	settings, err4 := c.Config(ctx)
	wantSame(t, "config", settings, f.Settings)
	methods, err5 := c.Describe(ctx, "worker")
	wantSame(t, "methods", methods, f.Methods["worker"])
	if err := errors.Join(err, err2, err3, err4, err5); err != nil {
		t.Error(err)
	}
}

func TestClientChangesWhatTheKernelRuns(t *testing.T) {
	f := admintest.New()
	f.Changes = []admin.Change{{Op: "scale", Key: "cells.worker", Cell: "worker", From: "2", To: "3"}}
	f.Run = admin.Launch{Command: []string{"/bin/true"}, Env: []string{"A=b"}}
	c, _ := serve(t, f)
	ctx := t.Context()
	errs := []error{
		c.Restart(ctx, admin.Target{Cell: "worker"}),
		c.Stop(ctx, admin.Target{Cell: "worker", Replica: 2}),
		c.Start(ctx, admin.Target{Cell: "worker", Replica: 2}),
		c.Scale(ctx, "worker", 0),
		c.RestartPlugin(ctx, "transport-uds"),
		c.SwapPlugin(ctx, "transport-uds", "./other", true),
	}
	changes, err := c.Apply(ctx, admin.Plan{File: "/g.toml", Cells: []string{"worker"}, DryRun: true})
	wantSame(t, "changes", changes, f.Changes)
	launch, err2 := c.Launch(ctx, "worker", []string{"sh", "-c", "true"})
	wantSame(t, "launch", launch, admin.Launch{Command: []string{"sh", "-c", "true"}, Env: []string{"A=b"}})
	if err := errors.Join(append(errs, err, err2)...); err != nil {
		t.Error(err)
	}
	want := []string{"restart worker", "stop worker#2", "start worker#2", "scale worker 0",
		"restart plugin transport-uds", "swap plugin transport-uds ./other true", "plan /g.toml worker", "launch worker"}
	if got := f.Noted(); !slices.Equal(got, want) {
		t.Errorf("noted: got %q, want %q", got, want)
	}
}

func TestErrorsKeepTheirMeaning(t *testing.T) {
	f := admintest.New()
	f.OnCall = func(ctx context.Context, r admin.CallRequest) (json.RawMessage, error) {
		switch r.Method {
		case "Slow":
			<-ctx.Done()
			return nil, ctx.Err()
		case "Plain":
			return nil, errors.New("open store: no space left")
		}
		return nil, &sdk.Error{Code: sdk.CodeNoATP, Executed: sdk.ExecutedYes, Text: "pay \"worker\": credit is used up"}
	}
	f.Fail = map[string]error{"Scale": sdk.Errorf(sdk.CodeDenied, "scale worker: not yours")}
	c, _ := serve(t, f)
	ctx := t.Context()
	call := func(method string, timeout time.Duration) error {
		_, err := c.Call(ctx, admin.CallRequest{Target: admin.Target{Cell: "worker"}, Method: method, Body: []byte("{}"), Timeout: timeout})
		return err
	}
	err := call("Work", 0)
	wantCode(t, err, sdk.CodeNoATP, `pay "worker"`)
	if e := sdk.AsError(err); e.Executed != sdk.ExecutedYes {
		t.Errorf("executed: got %v, want yes", e.Executed)
	}
	wantCode(t, call("Plain", 0), sdk.CodeInternal, "open store")
	wantCode(t, call("Slow", time.Millisecond), sdk.CodeDeadline, "")
	wantCode(t, c.Restart(ctx, admin.Target{Cell: "nobody"}), sdk.CodeNotFound, `"nobody"`)
	wantCode(t, c.Scale(ctx, "worker", 3), sdk.CodeDenied, "not yours")
	f.Fail["Scale"] = admin.WithCause(sdk.Errorf(sdk.CodeUnavailable, "swap: not seen"), admin.CauseUncovered)
	err = fmt.Errorf("more: %w", c.Scale(ctx, "worker", 3))
	wantCode(t, err, sdk.CodeUnavailable, "not seen")
	if got := admin.CauseOf(err); got != admin.CauseUncovered {
		t.Errorf("cause: got %q", got)
	}
	if got := admin.CauseOf(call("Plain", 0)); got != "" {
		t.Errorf("cause of a failure without one: got %q", got)
	}
	wantCode(t, c.Scale(ctx, "worker", -1), sdk.CodeInvalid, "from 0 to")
	wantCode(t, c.Scale(ctx, "worker", admin.MaxReplicas+1), sdk.CodeInvalid, "from 0 to")
	wantCode(t, c.Restart(ctx, admin.Target{Cell: "Not a name"}), sdk.CodeInvalid, "cell name")
}

func TestCallCarriesJSONBothWays(t *testing.T) {
	f := admintest.New()
	f.OnCall = func(_ context.Context, r admin.CallRequest) (json.RawMessage, error) {
		return json.RawMessage(fmt.Sprintf(`{"method":%q,"replica":%d,"got":%s}`, r.Method, r.Target.Replica, r.Body)), nil
	}
	c, path := serve(t, f)
	r := admin.CallRequest{Target: admin.Target{Cell: "worker", Replica: 2}, Method: "Worker.Work", Body: []byte(`{"id":1}`)}
	got, err := c.Call(t.Context(), r)
	if want := `{"method":"Worker.Work","replica":2,"got":{"id":1}}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	r.Body = []byte(`{"id":`)
	_, err = c.Call(t.Context(), r)
	wantCode(t, err, sdk.CodeInvalid, "not JSON")
	r.Body = []byte(`"` + strings.Repeat("x", admin.MaxMessage) + `"`)
	_, err = c.Call(t.Context(), r)
	wantCode(t, err, sdk.CodeTooLarge, "more than")
	// The bare protocol, as curl speaks it.
	resp := raw(t, path, "POST /v1/cells/worker/call/Work HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
	if !strings.Contains(resp, "200 OK") || !strings.HasSuffix(resp, "\"got\":{}}\n") {
		t.Errorf("raw call: got %q", resp)
	}
}

// raw sends a request as it is and returns all that comes back.
func raw(t *testing.T, path, request string) string {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) { // a server may hang up on what it refused to read
		t.Fatal(err)
	}
	return string(b)
}

func TestHostileRequestsAreRefused(t *testing.T) {
	_, path := serve(t, admintest.New())
	post := func(p, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s", p, len(body), body)
	}
	for _, c := range []struct{ request, status, text string }{
		{"GET /v1/nothing HTTP/1.0\r\n\r\n", "404", "no such request"},
		{"GET /v1/cells/..%2f..%2fetc/methods HTTP/1.0\r\n\r\n", "400", "cell name"},
		{"GET /v1/logs?tail=-1 HTTP/1.0\r\n\r\n", "400", "tail"},
		{"GET /v1/logs?since=yesterday HTTP/1.0\r\n\r\n", "400", "since"},
		{"GET /v1/events?after=x HTTP/1.0\r\n\r\n", "400", "after"},
		{"GET /v1/logs?source=nobody HTTP/1.0\r\n\r\n", "200", `"not_found"`},
		{"GET /v1/ps HTTP/1.0\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", "431", ""},
		{post("/v1/cells/worker/scale", `{}`), "400", "replicas"},
		{post("/v1/cells/worker/scale", `{"replicas":1,"x":2}`), "400", "unknown field"},
		{post("/v1/cells/worker/scale", `{"replicas":1}{}`), "400", "behind"},
		{post("/v1/cells/worker/restart?replica=99999999999999999999", ``), "400", "replica"},
		{post("/v1/apply", `{"file":"`+strings.Repeat("x", admin.MaxBody)+`"}`), "413", "more than"},
		{post("/v1/down", `[`), "400", "decode"},
	} {
		got := raw(t, path, c.request)
		line, _, _ := strings.Cut(got, "\r\n")
		if !strings.Contains(line, c.status) || !strings.Contains(got, c.text) {
			t.Errorf("%.60q: got %.300q, want status %s with %q", c.request, got, c.status, c.text)
		}
	}
}

func TestEventsReplayAndFollow(t *testing.T) {
	f := admintest.New()
	f.Journal.Publish(admin.Event{Kind: admin.EventBuild, Text: "worker"})
	c, _ := serve(t, f)
	stop := errors.New("seen enough")
	var got []string
	err := c.Events(t.Context(), 0, func(e admin.Event) error {
		got = append(got, fmt.Sprintf("%d %s", e.Seq, e.Text))
		if e.Seq == 1 {
			f.Journal.Publish(admin.Event{Kind: admin.EventReady, Text: "ready"})
			return nil
		}
		return stop
	})
	if !errors.Is(err, stop) || !slices.Equal(got, []string{"1 worker", "2 ready"}) {
		t.Errorf("got %q, %v", got, err)
	}
	got = nil
	ctx, cancel := context.WithCancel(t.Context())
	err = c.Events(ctx, 1, func(e admin.Event) error {
		got = append(got, fmt.Sprintf("%d %s", e.Seq, e.Text))
		cancel()
		return nil
	})
	if err != nil || !slices.Equal(got, []string{"2 ready"}) {
		t.Errorf("after 1: got %q, %v", got, err)
	}
}

func TestStreamsEndWithTheKernel(t *testing.T) {
	f := admintest.New()
	dir := privateDir(t)
	stop, err := f.Serve(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := admin.Dial(t.Context(), filepath.Join(dir, admin.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f.Journal.Publish(admin.Event{Kind: admin.EventNote})
	var wg sync.WaitGroup
	opened := make(chan struct{})
	wg.Go(func() {
		if err := c.Events(t.Context(), 0, func(admin.Event) error { close(opened); return nil }); err != nil {
			t.Errorf("events of a kernel that ended: %v", err)
		}
	})
	<-opened
	stop()
	wg.Wait()
	_, err = c.Status(t.Context())
	wantCode(t, err, sdk.CodeUnavailable, "admin.sock")
}

func TestStreamsAreLimited(t *testing.T) {
	f := admintest.New()
	f.Journal.Publish(admin.Event{Kind: admin.EventNote})
	c, _ := serve(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	open := make(chan struct{})
	for range 64 {
		wg.Go(func() {
			_ = c.Events(ctx, 0, func(admin.Event) error { open <- struct{}{}; return nil })
		})
	}
	for range 64 {
		<-open
	}
	err := c.Events(ctx, 0, func(admin.Event) error { return nil })
	wantCode(t, err, sdk.CodeOverloaded, "64")
	if _, err := c.Status(ctx); err != nil {
		t.Errorf("status beside 64 streams: %v", err)
	}
}

func TestLogs(t *testing.T) {
	f := admintest.New()
	base := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	long := strings.Repeat("é\x00\xff", admin.MaxLogText)
	for i, text := range []string{"one", "two", long} {
		f.Records = append(f.Records, admin.LogRecord{Time: base.Add(time.Duration(i) * time.Second),
			Kind: "cell", Name: "worker", Replica: i%2 + 1, Stream: "stderr", Text: text})
	}
	c, _ := serve(t, f)
	read := func(q admin.LogQuery) (text []string, err error) {
		err = c.Logs(t.Context(), q, func(r admin.LogRecord) error {
			text = append(text, r.Text)
			return nil
		})
		return text, err
	}
	got, err := read(admin.LogQuery{Since: base.Add(time.Second), Tail: 2, Sources: []string{"worker#2"}})
	if err != nil || !slices.Equal(got, []string{"two"}) {
		t.Errorf("got %q, %v", got, err)
	}
	got, err = read(admin.LogQuery{Tail: 1})
	if want := strings.ToValidUTF8(strings.ReplaceAll(long, "\xff", "\ufffd"), ""); err != nil || strings.Join(got, "") != want {
		t.Errorf("long line: got %d pieces, %v", len(got), err)
	}
	for _, p := range got {
		if len(p) > 3*admin.MaxLogText {
			t.Errorf("piece of %d bytes", len(p))
		}
	}
	_, err = read(admin.LogQuery{Sources: []string{"nobody"}})
	wantCode(t, err, sdk.CodeNotFound, "nobody")
}

func TestDownStreamsWhatItWaitsFor(t *testing.T) {
	f := admintest.New()
	f.Draining = []admin.Event{{Seq: 7, Kind: admin.EventDrain, Waiting: []string{"worker#1 (2 calls)"}}}
	c, _ := serve(t, f)
	var waiting []string
	err := c.Down(t.Context(), admin.DownRequest{Within: time.Second}, func(e admin.Event) error {
		waiting = append(waiting, e.Waiting...)
		return nil
	})
	if err != nil || !slices.Equal(waiting, []string{"worker#1 (2 calls)"}) {
		t.Errorf("got %q, %v", waiting, err)
	}
	if got := f.Noted(); !slices.Equal(got, []string{"down now=false within=1s"}) {
		t.Errorf("noted %q", got)
	}
}

func TestMetricsAreServedBeside(t *testing.T) {
	path := filepath.Join(privateDir(t), admin.SocketName)
	ln, err := admin.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	f := admintest.New()
	srv := admin.NewServer(f, admin.Options{Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "calls_total 7\n")
	})})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := srv.Serve(ln); err != nil {
			t.Error(err)
		}
	})
	if got := raw(t, path, "GET /metrics HTTP/1.0\r\n\r\n"); !strings.HasSuffix(got, "calls_total 7\n") {
		t.Errorf("got %q", got)
	}
	if err := srv.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	wg.Wait()
}
