package catalog_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/catalog"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/memplugin"
)

// The test binary is every plugin of these tests, and the kernel of one.
func TestMain(m *testing.M) {
	switch role := os.Getenv("TEST_ROLE"); role {
	case "":
		os.Exit(m.Run())
	case "kernel":
		runKernel()
	case "crash":
		os.Exit(3)
	default:
		plugin.Main(bundled()[role])
	}
}

func bundled() map[string]plugin.Plugin {
	return map[string]plugin.Plugin{
		"transport": memplugin.Transport(), "discovery": memplugin.Discovery(),
		"billing": memplugin.Billing(), "ledger": plugin.Ledger("strict", struct{}{}, newStrict),
		"unstable": plugin.Billing("unstable", struct{}{}, newUnstable),
		"tcp":      plugin.Transport("tcp", struct{}{}, newTCP), "pumped": plugin.Transport("tcp", struct{}{}, newPumped),
		"book": plugin.Ledger("book", struct{}{}, newBook), "forgetful": plugin.Ledger("book", struct{}{}, newForgetful),
	}
}

// A strict ledger refuses everything before Open.
type strict struct {
	sdk.Ledger
	opened bool
}

func newStrict(context.Context, struct{}, plugin.Host) (*strict, error) { return &strict{}, nil }

func (s *strict) Open(context.Context) (sdk.Head, error) {
	s.opened = true
	return sdk.Head{}, nil
}

func (s *strict) Balances(context.Context) (sdk.Head, map[sdk.Account]sdk.ATP, error) {
	if !s.opened {
		return sdk.Head{}, nil, sdk.Errorf(sdk.CodeInvalid, "not open")
	}
	return sdk.Head{}, nil, nil
}

// An unstable billing opens and ends its process when it is used.
type unstable struct{ sdk.Billing }

func newUnstable(context.Context, struct{}, plugin.Host) (unstable, error) { return unstable{}, nil }

func (unstable) Usage(context.Context, []sdk.Running) ([]sdk.Usage, error) {
	os.Exit(1)
	return nil, nil
}

// start runs plugins of this binary under catalog options.
func start(t *testing.T, o catalog.Options, specs ...catalog.Spec) (*catalog.Catalog, error) {
	t.Helper()
	c := newCatalog(o)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		c.Close(ctx)
		for _, s := range c.Status() {
			if s.State != catalog.StateStopped || s.PID != 0 {
				t.Errorf("after Close: %+v", s)
			}
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return c, c.Start(ctx, specs...)
}

func newCatalog(o catalog.Options) *catalog.Catalog {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	if o.Bundled == nil {
		o.Bundled = func(_ plugin.Kind, use string) (plugin.Command, bool) {
			_, ok := bundled()[use]
			return plugin.Command{Path: "/usr/bin/env", Args: []string{"TEST_ROLE=" + use, self}}, ok || use == "crash"
		}
	}
	o.Budget = max(o.Budget, 5)
	return catalog.New(o)
}

func spec(use string) catalog.Spec {
	kind := plugin.Kind(use)
	if !kind.Valid() {
		kind = plugin.KindBilling
	}
	return catalog.Spec{Kind: kind, Name: use, Use: use}
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func status(t *testing.T, c *catalog.Catalog, name string) catalog.Status {
	t.Helper()
	for _, s := range c.Status() {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no status of %q", name)
	return catalog.Status{}
}

func TestAllKindsStartTogether(t *testing.T) {
	c, err := start(t, catalog.Options{StateDir: t.TempDir()}, spec("transport"), spec("discovery"), spec("ledger"), spec("billing"))
	if err != nil {
		t.Fatal(err)
	}
	all := c.Status()
	if len(all) != 4 {
		t.Fatalf("got %d statuses", len(all))
	}
	for _, s := range all {
		if s.State != catalog.StateReady || s.PID == 0 || s.Restarts != 0 || s.Source != "bundled" || s.Started.IsZero() {
			t.Errorf("status %+v", s)
		}
	}
}

// use calls a plugin of each kind once through its handle.
func use(t *testing.T, c *catalog.Catalog, kind string) func(ctx context.Context) error {
	t.Helper()
	switch kind {
	case "transport":
		tr, err := c.Transport(kind)
		if err != nil {
			t.Fatal(err)
		}
		l, err := tr.Listen(t.Context(), sdk.Addr{Scheme: "mem", Host: "here:0"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return func(ctx context.Context) error { return connect(ctx, tr, l) }
	case "discovery":
		d, err := c.Discovery(kind)
		if err != nil {
			t.Fatal(err)
		}
		return func(ctx context.Context) error { return d.Announce(ctx, []sdk.Envelope{[]byte("x")}) }
	case "ledger":
		l, err := c.Ledger(kind)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		return func(ctx context.Context) error { _, _, err := l.Balances(ctx); return err }
	}
	b, err := c.Billing(kind)
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context) error { _, err := b.Usage(ctx, []sdk.Running{{ID: "a", PID: 1}}); return err }
}

// connect dials until a listener that is being restored is there again.
func connect(ctx context.Context, tr sdk.Transport, l net.Listener) error {
	for {
		near, err := tr.Dial(ctx, sdk.Addr{Scheme: "mem", Host: l.Addr().String()})
		if sdk.CodeOf(err) == sdk.CodeUnavailable && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return err
		}
		defer near.Close()
		far, err := l.Accept()
		if err != nil {
			return err
		}
		defer far.Close()
		if _, err := near.Write([]byte("x")); err != nil {
			return err
		}
		_, err = io.ReadFull(far, make([]byte, 1))
		return err
	}
}

func TestKilledPluginsServeAgain(t *testing.T) {
	everyKind(t, syscall.SIGKILL)
}

func TestHungPluginsAreReplaced(t *testing.T) {
	everyKind(t, syscall.SIGSTOP)
}

// everyKind sends sig to a plugin of each kind and calls it: handles wait for
// the new process.
func everyKind(t *testing.T, sig syscall.Signal) {
	for _, kind := range []string{"transport", "discovery", "ledger", "billing"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			c, err := start(t, catalog.Options{}, spec(kind))
			if err != nil {
				t.Fatal(err)
			}
			call := use(t, c, kind)
			if err := call(within(t, 5*time.Second)); err != nil {
				t.Fatal(err)
			}
			before := status(t, c, kind)
			if err := syscall.Kill(before.PID, sig); err != nil {
				t.Fatal(err)
			}
			waitUntilItServesNoMore(t, before.PID)
			if err := call(within(t, 15*time.Second)); err != nil {
				t.Fatalf("call after %v: %v", sig, err)
			}
			after := status(t, c, kind)
			if after.PID == before.PID || after.Restarts != 1 || after.LastError == "" {
				t.Errorf("before %+v\nafter %+v", before, after)
			}
		})
	}
}

// waitUntilItServesNoMore waits for a signal to arrive.
func waitUntilItServesNoMore(t *testing.T, pid int) {
	t.Helper()
	ctx := within(t, 10*time.Second)
	for ctx.Err() == nil {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.ContainsAny(string(b[bytes.LastIndexByte(b, ')'):][:3]), "TZX") {
			return
		}
	}
	t.Fatal("the signal did not arrive")
}

func TestDiscoveryIsToldAgain(t *testing.T) {
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
	for round := range 2 {
		seen, synced := false, false
		for !seen || !synced {
			select {
			case e := <-events:
				seen = seen || e.Kind == sdk.EventSeen && string(e.Envelope) == "me"
				synced = synced || e.Kind == sdk.EventSynced
			case err := <-ended:
				t.Fatalf("round %d: the watch ended: %v", round, err)
			case <-time.After(15 * time.Second):
				t.Fatalf("round %d: seen %v, synced %v", round, seen, synced)
			}
		}
		if round == 0 {
			syscall.Kill(status(t, c, "discovery").PID, syscall.SIGKILL)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the watch ended with %v", err)
	}
}

func TestConnectionsOutliveThePlugin(t *testing.T) {
	c, err := start(t, catalog.Options{}, spec("transport"))
	if err != nil {
		t.Fatal(err)
	}
	tr, err := c.Transport("transport")
	if err != nil {
		t.Fatal(err)
	}
	l, err := tr.Listen(t.Context(), sdk.Addr{Scheme: "mem", Host: "a"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := tr.Dial(t.Context(), sdk.Addr{Scheme: "mem", Host: "a"})
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if _, ok := near.(plugin.Filer); !ok {
		t.Errorf("a connection of type %T is no Filer", near)
	}
	if err := c.Restart(within(t, 10*time.Second), "transport-transport"); err != nil {
		t.Fatal(err)
	}
	if _, err := near.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(far, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if err := connect(within(t, 10*time.Second), tr, l); err != nil {
		t.Errorf("a new connection after the restart: %v", err)
	}
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
