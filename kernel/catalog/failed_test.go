package catalog_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/catalog"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

func TestBudgetThenFailedThenRestart(t *testing.T) {
	var states []catalog.State
	changed := make(chan catalog.Status, 1000)
	c, err := start(t, catalog.Options{Changed: func(s catalog.Status) { changed <- s }}, spec("crash"))
	if err == nil || !strings.Contains(err.Error(), "billing(crash)") {
		t.Errorf("start: got %v, want an error that names the plugin", err)
	}
	for s := range changed {
		states = append(states, s.State)
		if s.State == catalog.StateFailed {
			break
		}
	}
	s := status(t, c, "crash")
	if s.Restarts != 5 || s.PID != 0 || !strings.Contains(s.LastError, "given up after 6 failures") {
		t.Errorf("got %+v after %v", s, states)
	}
	b, err := c.Billing("crash")
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Usage(t.Context(), nil)
	if sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), "cellkernel plugin restart billing-crash") {
		t.Errorf("a call to a failed plugin: %v", err)
	}
	if err := c.Restart(within(t, 10*time.Second), "crash"); err == nil {
		t.Error("the restart of a plugin that can not start succeeded")
	}
	if s := status(t, c, "crash"); s.Restarts != 5 || s.State == catalog.StateStarting {
		t.Errorf("the restart that was asked for is counted: %+v", s)
	}
}

func TestStatesOfALife(t *testing.T) {
	changed := make(chan catalog.Status, 1000)
	c, err := start(t, catalog.Options{Changed: func(s catalog.Status) { changed <- s }}, spec("transport"))
	if err != nil {
		t.Fatal(err)
	}
	c.Close(within(t, 10*time.Second))
	close(changed)
	var states []catalog.State
	for s := range changed {
		states = append(states, s.State)
	}
	want := []catalog.State{catalog.StateStarting, catalog.StateReady, catalog.StateDraining, catalog.StateStopped}
	if !slices.Equal(states, want) {
		t.Errorf("got %v, want %v", states, want)
	}
}

func TestPluginThatDiesOfItsCallsIsGivenUp(t *testing.T) {
	c, err := start(t, catalog.Options{}, spec("unstable"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.Billing("unstable")
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Usage(within(t, 30*time.Second), []sdk.Running{{ID: "a", PID: 1}})
	if sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("got %v, want unavailable", err)
	}
	if s := status(t, c, "unstable"); s.State != catalog.StateFailed {
		t.Errorf("got %+v, want failed", s)
	}
}

func TestWrongConfigurationIsNotTriedAgain(t *testing.T) {
	for _, s := range []catalog.Spec{
		{Kind: plugin.KindBilling, Name: "b", Use: "billing", Config: map[string]any{"nothing": 1}},
		{Kind: plugin.KindLedger, Name: "b", Use: "billing"}, // another kind
		{Kind: plugin.KindBilling, Name: "b", Use: "nosuch"},
		{Kind: plugin.KindBilling, Name: "b", Use: "billing", SHA256: strings.Repeat("0", 64)},
		{Kind: plugin.KindBilling, Name: "b", Use: "/bin/true", SHA256: strings.Repeat("0", 64)},
	} {
		c, err := start(t, catalog.Options{}, s)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%s(b)", s.Kind)) {
			t.Errorf("%+v: got %v, want an error that names the plugin", s, err)
		}
		if st := status(t, c, "b"); st.State != catalog.StateFailed || st.Restarts != 0 {
			t.Errorf("%+v: got %+v", s, st)
		}
	}
}

func TestNames(t *testing.T) {
	c, err := start(t, catalog.Options{}, spec("billing"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Restart(t.Context(), "nosuch"); sdk.CodeOf(err) != sdk.CodeNotFound {
		t.Errorf("restart of nothing: %v", err)
	}
	if _, err := c.Ledger("billing"); sdk.CodeOf(err) != sdk.CodeNotFound {
		t.Errorf("ledger of a billing: %v", err)
	}
	if err := c.Start(t.Context(), spec("billing")); err == nil {
		t.Error("the same name started twice")
	}
}

func TestClosedCatalogFailsCalls(t *testing.T) {
	c := newCatalog(catalog.Options{})
	if err := c.Start(t.Context(), spec("billing")); err != nil {
		t.Fatal(err)
	}
	b, err := c.Billing("billing")
	if err != nil {
		t.Fatal(err)
	}
	c.Close(t.Context())
	if _, err := b.Usage(t.Context(), nil); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("got %v, want unavailable", err)
	}
}

// Trap T17: what is executed is what was checked.
func TestPinnedFile(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "pinned")
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil { // not even executable
		t.Fatal(err)
	}
	s := catalog.Spec{Kind: plugin.KindBilling, Name: "pinned", Use: path, SHA256: sha256Hex(b)}
	o := catalog.Options{Env: []string{"TEST_ROLE=billing"}}
	c, err := start(t, o, s)
	if err != nil {
		t.Fatal(err)
	}
	if st := status(t, c, "pinned"); st.Source != path {
		t.Errorf("source %q, want the path", st.Source)
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", status(t, c, "pinned").PID))
	if err != nil || !strings.HasPrefix(exe, "/memfd:") {
		t.Errorf("it runs %q, %v: want a memfd", exe, err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	err = c.Restart(within(t, 10*time.Second), "pinned")
	if err == nil || !strings.Contains(err.Error(), "sha256 is") {
		t.Errorf("restart with another file: %v", err)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	goroutines := runtime.NumGoroutine()
	dir, err := os.MkdirTemp("", "k")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	c := newCatalog(catalog.Options{RunDir: dir})
	if err := c.Start(t.Context(), spec("transport"), spec("discovery"), spec("crash")); err == nil {
		t.Error("a plugin that crashes started")
	}
	tr, err := c.Transport("transport")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Listen(t.Context(), sdk.Addr{Scheme: "mem", Host: "open"}); err != nil {
		t.Fatal(err)
	}
	d, err := c.Discovery("discovery")
	if err != nil {
		t.Fatal(err)
	}
	watched := make(chan error, 1)
	go func() { watched <- d.Watch(t.Context(), func(sdk.Event) {}) }()
	c.Close(t.Context())
	if err := <-watched; sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("the watch ended with %v, want unavailable", err)
	}
	for begin := time.Now(); runtime.NumGoroutine() > goroutines; <-time.After(10 * time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, were %d\n%s", runtime.NumGoroutine(), goroutines, buf[:runtime.Stack(buf, true)])
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
