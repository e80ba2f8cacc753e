package plugin_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

func pipeProbe(t *testing.T, o plugin.Options) *plugin.Client {
	t.Helper()
	c, err := plugin.Pipe(t.Context(), probePlugin(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Kill() })
	return c
}

func TestSubkeysFollowSecretAndLabel(t *testing.T) {
	secret := []byte(strings.Repeat("s", 32))
	a := ask(t, pipeProbe(t, plugin.Options{Secret: secret}), "subkey")
	b := ask(t, mustLaunch(t, "probe", plugin.Options{Secret: secret}), "subkey")
	if a != b {
		t.Errorf("the same secret gives %s and %s", a, b)
	}
	if x, y, _ := strings.Cut(a, " "); x == y {
		t.Errorf("two labels give the same key %s", x)
	}
	if other := ask(t, pipeProbe(t, plugin.Options{}), "subkey"); other == a {
		t.Error("another secret gives the same keys")
	}
}

func TestStateIsKept(t *testing.T) {
	dir := t.TempDir()
	c := mustLaunch(t, "probe", plugin.Options{State: dir})
	if got := ask(t, c, "state"); got != "<nil>" {
		t.Fatal(got)
	}
	c.Kill()
	if b, err := os.ReadFile(filepath.Join(dir, "f")); string(b) != "kept" {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestOnlyTransportsAreCertified(t *testing.T) {
	c := pipeProbe(t, plugin.Options{Certify: func(context.Context, []byte) ([]byte, error) {
		t.Error("a billing asked for a certificate and got through")
		return nil, nil
	}})
	if got := ask(t, c, "certify"); !strings.Contains(got, "only transports") {
		t.Errorf("got %q", got)
	}
}

// certified opens a transport that needs a certificate.
func certified(key []byte, got *[]byte) plugin.Plugin {
	return plugin.Transport("cert", struct{}{}, func(ctx context.Context, _ struct{}, h plugin.Host) (*unixTransport, error) {
		cert, err := h.Certify(ctx, key)
		*got = cert
		return &unixTransport{}, err
	})
}

func TestCertify(t *testing.T) {
	var got []byte
	certify := func(_ context.Context, spki []byte) ([]byte, error) { return append([]byte("signed "), spki...), nil }
	c, err := plugin.Pipe(t.Context(), certified([]byte("key"), &got), plugin.Options{Certify: certify})
	if err != nil {
		t.Fatal(err)
	}
	c.Kill()
	if string(got) != "signed key" {
		t.Errorf("got %q", got)
	}
	for name, o := range map[string]plugin.Options{
		"none":  {},
		"error": {Certify: func(context.Context, []byte) ([]byte, error) { return nil, sdk.Errorf(sdk.CodeDenied, "no") }},
		"large": {Certify: func(context.Context, []byte) ([]byte, error) { return make([]byte, 1<<20), nil }},
	} {
		if _, err := plugin.Pipe(t.Context(), certified([]byte("key"), &got), o); err == nil {
			t.Errorf("%s: opened without a certificate", name)
		}
	}
	if _, err := plugin.Pipe(t.Context(), certified(make([]byte, 1<<20), &got), plugin.Options{Certify: certify}); sdk.CodeOf(err) != sdk.CodeTooLarge {
		t.Errorf("a key of 1 MiB: %v", err)
	}
}

func TestErrorsKeepTheirCode(t *testing.T) {
	var log lines
	c := pipeProbe(t, plugin.Options{Log: log.add})
	b, err := c.Billing()
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[sdk.WorkloadID]struct {
		code sdk.Code
		text string
	}{
		"panic": {sdk.CodeInternal, "billing(probe): place panic: panic: on purpose"},
		"plain": {sdk.CodeApplication, "billing(probe): place plain: an author's error of two lines"},
		"typed": {sdk.CodeNoATP, "billing(probe): place typed: place typed: poor"},
	} {
		_, err := b.Place(t.Context(), sdk.Workload{ID: id})
		if sdk.CodeOf(err) != want.code || err.Error() != want.text {
			t.Errorf("%s: got %v %q, want %v %q", id, sdk.CodeOf(err), err, want.code, want.text)
		}
	}
	log.until(t, "the plugin panicked")
	if _, err := b.Place(t.Context(), sdk.Workload{ID: "\n"}); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("a bad id: %v", err)
	}
	if _, err := c.Ledger(); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("a billing as a ledger: %v", err)
	}
}

func TestCallsEndWithThePlugin(t *testing.T) {
	for name, c := range map[string]*plugin.Client{"pipe": pipeProbe(t, plugin.Options{}), "process": mustLaunch(t, "probe", plugin.Options{})} {
		b, err := c.Billing()
		if err != nil {
			t.Fatal(err)
		}
		c.Kill()
		_, err = b.Place(t.Context(), sdk.Workload{ID: "a"})
		if !errors.Is(err, plugin.ErrGone) || sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Errorf("%s: got %v, want unavailable, ErrGone", name, err)
		}
		if c.Err() == nil {
			t.Errorf("%s: no error after a death nobody asked for", name)
		}
	}
}

func TestServeWithoutKernel(t *testing.T) {
	if err := plugin.Serve(t.Context(), probePlugin()); !errors.Is(err, plugin.ErrNotStarted) {
		t.Errorf("got %v, want ErrNotStarted", err)
	}
}

func TestSeal(t *testing.T) {
	for path, want := range map[string]string{
		"relative":  "absolute",
		"/no/such":  "no such file",
		"/proc":     "not a regular file",
		"/etc/motd": "",
	} {
		if f, err := plugin.Seal(path, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v", path, f, err)
		}
	}
	f, err := plugin.Seal(self(t), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("a sealed file was changed")
	}
	if err := f.Truncate(0); err == nil {
		t.Error("a sealed file was cut")
	}
}

// A plugin can not make its kernel work without limit.
func TestHostCallsAreBounded(t *testing.T) {
	release := make(chan struct{})
	var running, most, refused atomic.Int32
	certify := func(context.Context, []byte) ([]byte, error) {
		n := running.Add(1)
		defer running.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		<-release
		return []byte("x"), nil
	}
	p := plugin.Transport("cert", struct{}{}, func(ctx context.Context, _ struct{}, h plugin.Host) (*unixTransport, error) {
		var all sync.WaitGroup
		for range 30 {
			all.Go(func() {
				if _, err := h.Certify(ctx, []byte("k")); sdk.CodeOf(err) == sdk.CodeOverloaded && refused.Add(1) == 22 {
					close(release) // 8 of 30 run
				}
			})
		}
		all.Wait()
		return &unixTransport{}, nil
	})
	c, err := plugin.Pipe(t.Context(), p, plugin.Options{Certify: certify})
	if err != nil {
		t.Fatal(err)
	}
	c.Kill()
	if most.Load() > 8 || refused.Load() != 22 {
		t.Errorf("%d calls at once, %d refused", most.Load(), refused.Load())
	}
}

// A setup is for the plugin's own process: in a pipe it would change ours.
func TestSetupRunsInTheProcessOfThePlugin(t *testing.T) {
	if got := ask(t, mustLaunch(t, "set-up", plugin.Options{}), "env"); !strings.Contains(got, "SET_UP=yes") {
		t.Errorf("the setup did not run: %s", got)
	}
	ran := false
	c, err := plugin.Pipe(t.Context(), probePlugin().WithSetup(func() { ran = true }), plugin.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c.Kill()
	if ran {
		t.Error("the setup ran in a pipe")
	}
}
