package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/catalog"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// named is a spec whose plugin is called after its kind, whoever is used.
func named(kind plugin.Kind, use string) catalog.Spec {
	name := string(kind)
	if kind == plugin.KindTransport {
		name = "tcp"
	}
	return catalog.Spec{Kind: kind, Name: name, Use: use}
}

// kinds are a plugin of each kind that another process can take the place of;
// of transports, one that hands its links over and one that keeps them.
var kinds = []struct {
	kind plugin.Kind
	use  string
}{
	{plugin.KindTransport, "tcp"},
	{plugin.KindTransport, "pumped"},
	{plugin.KindDiscovery, "discovery"},
	{plugin.KindLedger, "book"},
	{plugin.KindBilling, "billing"},
}

// leftovers counts what a catalog could leave behind.
func leftovers(t *testing.T) map[string]int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	n := len(strings.Fields(string(children)))
	if err != nil { // not every system has it
		n = 0
	}
	return map[string]int{"goroutines": runtime.NumGoroutine(), "descriptors": len(fds), "children": n}
}

// backTo waits until nothing is left beyond what was there before.
func backTo(t *testing.T, before map[string]int) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); ; <-tick.C {
		now, more := leftovers(t), false
		for what, n := range now {
			more = more || n > before[what]
		}
		if !more {
			return
		}
		if time.Since(begin) > 10*time.Second {
			buf := make([]byte, 1<<20)
			t.Fatalf("left %v, before %v\n%s", now, before, buf[:runtime.Stack(buf, true)])
		}
	}
}

// caller returns a call of each kind, to be made by one goroutine.
func caller(t *testing.T, c *catalog.Catalog, kind plugin.Kind) func(ctx context.Context) error {
	t.Helper()
	switch kind {
	case plugin.KindTransport:
		tr, l := listen(t, c)
		go echo(l)
		return func(ctx context.Context) error {
			addrs, _ := l.Addrs() // as a peer that heard the announcement
			return ping(ctx, tr, addrs[0].Host)
		}
	case plugin.KindLedger:
		l, err := c.Ledger("ledger")
		if err != nil {
			t.Fatal(err)
		}
		head, err := l.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return func(ctx context.Context) (err error) {
			r := sdk.Record{Postings: []sdk.Posting{{Account: "a", Amount: 1}, {Account: "b", Amount: -1}}}
			r.ID[0] = byte(head.Seq>>8) + 1
			r.ID[1] = byte(head.Seq)
			head, err = l.Append(ctx, head, []sdk.Record{r})
			return err
		}
	}
	return use(t, c, string(kind))
}

func listen(t *testing.T, c *catalog.Catalog) (sdk.Transport, catalog.Listener) {
	t.Helper()
	tr, err := c.Transport("tcp")
	if err != nil {
		t.Fatal(err)
	}
	l, err := tr.Listen(t.Context(), sdk.Addr{Scheme: "tcp", Host: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return tr, l.(catalog.Listener)
}

// echo serves a listener until it ends.
func echo(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			io.Copy(conn, conn)
		}()
	}
}

// ping opens a link and closes it.
func ping(ctx context.Context, tr sdk.Transport, host string) error {
	conn, err := tr.Dial(ctx, sdk.Addr{Scheme: "tcp", Host: host})
	if err != nil {
		return err
	}
	defer conn.Close()
	return exchange(conn)
}

func exchange(conn net.Conn) error {
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write([]byte("x")); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

// atOnce says that nothing has to drain.
func atOnce(context.Context) {}

func TestTwentySwapsUnderCalls(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.use, func(t *testing.T) {
			before := leftovers(t)
			c := newCatalog(catalog.Options{StateDir: t.TempDir()})
			if err := c.Start(t.Context(), named(k.kind, k.use)); err != nil {
				t.Fatal(err)
			}
			call := caller(t, c, k.kind)
			var calls, wrong atomic.Int64
			var wg sync.WaitGroup
			ctx, stop := context.WithCancel(t.Context())
			wg.Go(func() {
				for ctx.Err() == nil {
					if err := call(t.Context()); err != nil {
						wrong.Add(1)
						t.Errorf("call %d: %v", calls.Load(), err)
					}
					calls.Add(1)
				}
			})
			more := func(ctx context.Context) { // a call that began after this one did
				for made := calls.Load(); calls.Load() < made+2 && ctx.Err() == nil; {
					runtime.Gosched()
				}
			}
			swap := catalog.Swap{Drain: more, Commit: func(ctx context.Context, n catalog.Candidate) error {
				return n.Ping(ctx)
			}}
			if k.use == "tcp" {
				swap.Drain = atOnce
			}
			for i := range swaps {
				pid := c.Status()[0].PID
				if err := c.Replace(within(t, 30*time.Second), named(k.kind, k.use), swap); err != nil {
					t.Fatalf("swap %d: %v", i, err)
				}
				if s := c.Status()[0]; s.PID == pid || s.State != catalog.StateReady || s.Restarts != 0 {
					t.Errorf("swap %d: process %d, then %+v", i, pid, s)
				}
				if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
					t.Errorf("swap %d: the old process is there: %v", i, err)
				}
				more(within(t, 10*time.Second))
			}
			stop()
			wg.Wait()
			if wrong.Load() > 0 || calls.Load() < swaps {
				t.Errorf("%d of %d calls failed", wrong.Load(), calls.Load())
			}
			c.Close(t.Context())
			backTo(t, before)
		})
	}
}

func TestRefusedSwapsChangeNothing(t *testing.T) {
	refusal := sdk.Errorf(sdk.CodeDenied, "not covered: desk")
	refuse := func(context.Context, catalog.Candidate) error { return refusal }
	var end context.CancelFunc // of the swap under way
	late := func(ctx context.Context, _ catalog.Candidate) error { end(); <-ctx.Done(); return ctx.Err() }
	deaf := func(context.Context, catalog.Candidate) error { end(); return nil }
	die := func(ctx context.Context, n catalog.Candidate) error {
		syscall.Kill(n.Info().PID, syscall.SIGKILL)
		<-ctx.Done()
		return ctx.Err()
	}
	hang := func(_ context.Context, n catalog.Candidate) error {
		err := syscall.Kill(n.Info().PID, syscall.SIGSTOP)
		waitUntilItServesNoMore(t, n.Info().PID)
		return err
	}
	cases := []struct {
		name   string
		use    string
		commit func(context.Context, catalog.Candidate) error
		code   sdk.Code
		text   string
	}{
		{"no such plugin", "nosuch", nil, sdk.CodeInvalid, `is called "nosuch"`},
		{"it crashes", "crash", nil, sdk.CodeUnavailable, "never said that it is a plugin"},
		{"refused", "", refuse, sdk.CodeDenied, "not covered: desk"},
		{"too late", "", late, sdk.CodeCancelled, "cancel"},
		{"too late and not noticed", "", deaf, sdk.CodeCancelled, "cancel"},
		{"it dies", "", die, sdk.CodeUnavailable, "the new process did not survive"},
		{"it hangs", "", hang, sdk.CodeDeadline, "ping"},
	}
	for _, k := range kinds {
		t.Run(k.use, func(t *testing.T) {
			before := leftovers(t)
			c := newCatalog(catalog.Options{StateDir: t.TempDir()})
			if err := c.Start(t.Context(), named(k.kind, k.use)); err != nil {
				t.Fatal(err)
			}
			call := caller(t, c, k.kind)
			for _, cs := range cases {
				pid := c.Status()[0].PID
				spec := named(k.kind, cs.use)
				if cs.use == "" {
					spec.Use = k.use
				}
				var ctx context.Context
				ctx, end = context.WithCancel(t.Context())
				err := c.Replace(ctx, spec, catalog.Swap{Commit: cs.commit, Drain: atOnce})
				end()
				if sdk.CodeOf(err) != cs.code || !strings.Contains(fmt.Sprint(err), cs.text) || !strings.Contains(err.Error(), c.Status()[0].Name) {
					t.Errorf("%s: got %v (%v), want %v and %q", cs.name, err, sdk.CodeOf(err), cs.code, cs.text)
				}
				if cs.name == "refused" && !errors.Is(err, refusal) {
					t.Errorf("the refusal itself is not in %v", err)
				}
				s := c.Status()[0]
				if s.State != catalog.StateReady || s.PID != pid && k.kind != plugin.KindLedger {
					t.Errorf("%s: process %d, then %+v", cs.name, pid, s)
				}
				if err := call(within(t, 10*time.Second)); err != nil {
					t.Errorf("%s: a call afterwards: %v", cs.name, err)
				}
			}
			c.Close(t.Context())
			backTo(t, before)
		})
	}
}

// What peers are told around a swap, and what becomes of links in the old
// process.
func TestTransportDrains(t *testing.T) {
	c, err := start(t, catalog.Options{Grace: 300 * time.Millisecond}, named(plugin.KindTransport, "pumped"))
	if err != nil {
		t.Fatal(err)
	}
	tr, l := listen(t, c)
	go echo(l)
	home := l.Addr().String()
	old, err := tr.Dial(t.Context(), sdk.Addr{Scheme: "tcp", Host: home})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	var free string
	swap := catalog.Swap{
		Commit: func(ctx context.Context, n catalog.Candidate) error {
			addrs, _ := l.Addrs()
			if len(addrs) != 2 || addrs[0].Host != home || string(addrs[1].Hint) != "kept" {
				t.Errorf("before the cut: %v", addrs)
				return errors.New("no free port")
			}
			free = addrs[1].Host
			inner, err := n.Transport()
			if err != nil {
				return err
			}
			return ping(ctx, inner, free)
		},
		Drain: func(ctx context.Context) {
			if addrs, _ := l.Addrs(); len(addrs) != 1 || addrs[0].Host != free {
				t.Errorf("while draining: %v, want only %s", addrs, free)
			}
			for _, host := range []string{home, free} { // one is served by each process
				if err := ping(ctx, tr, host); err != nil {
					t.Errorf("while draining, a new link to %s: %v", host, err)
				}
			}
			if err := exchange(old); err != nil {
				t.Errorf("while draining, an old link: %v", err)
			}
		},
	}
	if err := c.Replace(within(t, 20*time.Second), named(plugin.KindTransport, "pumped"), swap); err != nil {
		t.Fatal(err)
	}
	if err := exchange(old); err == nil {
		t.Error("a link that the old process pumped goes on without it")
	}
	if err := ping(within(t, 5*time.Second), tr, home); err != nil {
		t.Errorf("the configured address afterwards: %v", err)
	}
	for deadline := within(t, 10*time.Second); ; {
		addrs, changed := l.Addrs()
		if addrs[0].Host != home {
			t.Fatalf("afterwards: %v", addrs)
		}
		if len(addrs) == 1 {
			break
		}
		select {
		case <-changed:
		case <-deadline.Done():
			t.Fatalf("the free port stays: %v", addrs)
		}
	}
	if err := ping(within(t, 5*time.Second), tr, free); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("the free port after the grace: %v", err)
	}
}

// Links that were handed over as descriptors live on.
func TestHandedLinksOutliveASwap(t *testing.T) {
	c, err := start(t, catalog.Options{}, named(plugin.KindTransport, "tcp"))
	if err != nil {
		t.Fatal(err)
	}
	tr, l := listen(t, c)
	go echo(l)
	conn, err := tr.Dial(t.Context(), sdk.Addr{Scheme: "tcp", Host: l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := c.Replace(within(t, 20*time.Second), named(plugin.KindTransport, "tcp"), catalog.Swap{Drain: atOnce}); err != nil {
		t.Fatal(err)
	}
	if err := exchange(conn); err != nil {
		t.Error(err)
	}
}

func TestDiscoveryGoesOnInTheNewProcess(t *testing.T) {
	c, err := start(t, catalog.Options{}, spec("discovery"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.Discovery("discovery")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Announce(t.Context(), []sdk.Envelope{[]byte("me")}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	events, ended := make(chan sdk.Event, 100), make(chan error, 1)
	go func() { ended <- d.Watch(ctx, func(e sdk.Event) { events <- e }) }()
	// What is announced may be seen more than once.
	snapshot := func() {
		t.Helper()
		for seen := false; ; {
			select {
			case e := <-events:
				if e.Kind == sdk.EventSynced && seen {
					return
				}
				if e.Kind != sdk.EventSeen || string(e.Envelope) != "me" {
					t.Fatalf("got %d %q", e.Kind, e.Envelope)
				}
				seen = true
			case err := <-ended:
				t.Fatalf("the watch ended: %v", err)
			case <-time.After(15 * time.Second):
				t.Fatalf("seen %v, but no snapshot", seen)
			}
		}
	}
	snapshot()
	commit := func(ctx context.Context, n catalog.Candidate) error {
		inner, err := n.Discovery()
		if err != nil {
			return err
		}
		if err := inner.Announce(ctx, []sdk.Envelope{[]byte("me, beside")}); err != nil {
			return err
		}
		ctx, synced := context.WithCancel(ctx)
		return inner.Watch(ctx, func(e sdk.Event) {
			if e.Kind == sdk.EventSynced {
				synced()
			}
		})
	}
	if err := c.Replace(within(t, 20*time.Second), spec("discovery"), catalog.Swap{Commit: commit}); err != nil {
		t.Fatal(err)
	}
	// No goodbye of the old process, and what the handle was told last.
	snapshot()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the watch ended with %v", err)
	}
}

// compare is what a kernel does with ledgers.
func compare(ctx context.Context, n catalog.Candidate) error {
	l, err := n.Ledger()
	if err != nil {
		return err
	}
	head, balances, err := l.Balances(ctx)
	if err != nil {
		return err
	}
	if n.Before == nil || head != n.Before.Head || !maps.Equal(balances, n.Before.Balances) {
		return sdk.Errorf(sdk.CodeInvalid, "the new book ends at %d, the old one was %+v", head.Seq, n.Before)
	}
	return nil
}

func TestLedgerIsComparedBeforeItIsUsed(t *testing.T) {
	c, err := start(t, catalog.Options{StateDir: t.TempDir()}, named(plugin.KindLedger, "book"))
	if err != nil {
		t.Fatal(err)
	}
	append1 := caller(t, c, plugin.KindLedger)
	if err := append1(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = c.Replace(within(t, 20*time.Second), named(plugin.KindLedger, "forgetful"), catalog.Swap{Commit: compare})
	if sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), "the new book ends at 0") {
		t.Errorf("a book that lost its records: %v", err)
	}
	if err := append1(t.Context()); err != nil {
		t.Errorf("the old one afterwards: %v", err)
	}
	alone := func(ctx context.Context, n catalog.Candidate) error {
		if s := c.Status()[0]; s.PID != 0 {
			t.Errorf("two processes of a ledger at once: %+v", s)
		}
		return compare(ctx, n)
	}
	if err := c.Replace(within(t, 20*time.Second), named(plugin.KindLedger, "book"), catalog.Swap{Commit: alone}); err != nil {
		t.Error(err)
	}
	if err := append1(t.Context()); err != nil {
		t.Errorf("the new one: %v", err)
	}
}

func TestReplaceHelpsAFailedPlugin(t *testing.T) {
	wrong := spec("billing")
	wrong.Config = map[string]any{"nothing": 1}
	c, err := start(t, catalog.Options{}, wrong)
	if err == nil {
		t.Fatal("a wrong configuration started")
	}
	b, err := c.Billing("billing")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Replace(within(t, 20*time.Second), spec("billing"), catalog.Swap{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Usage(t.Context(), nil); err != nil {
		t.Error(err)
	}
	// The new specification is the one that is started again.
	if err := c.Restart(within(t, 10*time.Second), "billing"); err != nil {
		t.Error(err)
	}
}

func TestAddAndRemove(t *testing.T) {
	before := leftovers(t)
	c := newCatalog(catalog.Options{})
	ctx := within(t, 60*time.Second)
	if err := c.Add(ctx, spec("discovery")); err != nil {
		t.Fatal(err)
	}
	if err := c.Add(ctx, named(plugin.KindTransport, "tcp")); err != nil {
		t.Fatal(err)
	}
	if err := c.Add(ctx, spec("discovery")); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("the same name twice: %v", err)
	}
	err := c.Add(ctx, spec("crash"))
	if sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), "billing(crash)") {
		t.Errorf("a plugin that crashes: %v", err)
	}
	d, err := c.Discovery("discovery")
	if err != nil {
		t.Fatal(err)
	}
	synced, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- d.Watch(t.Context(), func(e sdk.Event) {
			if e.Kind == sdk.EventSynced {
				close(synced)
			}
		})
	}()
	<-synced
	_, l := listen(t, c)
	accepted := make(chan error, 1)
	go func() { _, err := l.Accept(); accepted <- err }()
	if len(c.Status()) != 2 {
		t.Errorf("got %+v", c.Status())
	}
	for kind, name := range map[plugin.Kind]string{plugin.KindDiscovery: "discovery", plugin.KindTransport: "tcp"} {
		if err := c.Remove(ctx, kind, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-ended; !errors.Is(err, catalog.ErrRemoved) || sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("the watch ended with %v", err)
	}
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept ended with %v", err)
	}
	if err := d.Announce(ctx, nil); !errors.Is(err, catalog.ErrRemoved) {
		t.Errorf("announce: %v", err)
	}
	if err := c.Remove(ctx, plugin.KindDiscovery, "discovery"); sdk.CodeOf(err) != sdk.CodeNotFound || len(c.Status()) != 0 {
		t.Errorf("removed twice: %v, left %+v", err, c.Status())
	}
	backTo(t, before)
	if err := c.Add(ctx, spec("discovery")); err != nil {
		t.Errorf("the same name anew: %v", err)
	}
	c.Close(ctx)
	if err := c.Add(ctx, spec("billing")); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("add to a closed catalog: %v", err)
	}
	backTo(t, before)
}

// Remove and Close do not wait for a swap.
func TestSwapsAreGivenUp(t *testing.T) {
	before := leftovers(t)
	for name, end := range map[string]func(*catalog.Catalog){
		"remove": func(c *catalog.Catalog) { c.Remove(context.Background(), plugin.KindTransport, "tcp") },
		"close":  func(c *catalog.Catalog) { c.Close(context.Background()) },
	} {
		c := newCatalog(catalog.Options{})
		if err := c.Start(t.Context(), named(plugin.KindTransport, "tcp")); err != nil {
			t.Fatal(err)
		}
		_, l := listen(t, c)
		asked, ended := make(chan struct{}), make(chan error, 1)
		commit := func(ctx context.Context, _ catalog.Candidate) error { close(asked); <-ctx.Done(); return ctx.Err() }
		go func() {
			ended <- c.Replace(context.Background(), named(plugin.KindTransport, "tcp"), catalog.Swap{Commit: commit})
		}()
		<-asked
		end(c)
		if err := <-ended; sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Errorf("%s: the swap ended with %v", name, err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: accept: %v", name, err)
		}
		c.Close(context.Background())
	}
	backTo(t, before)
}
