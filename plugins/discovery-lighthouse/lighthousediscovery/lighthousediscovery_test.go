package lighthousediscovery_test

import (
	"context"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/lighthouse"
	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/lighthousediscovery"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/plugintest"
)

const serve = "TEST_SERVE"

func TestMain(m *testing.M) {
	if os.Getenv(serve) != "" {
		plugin.Main(lighthousediscovery.Plugin())
		return
	}
	goleak.VerifyTestMain(m)
}

// A beacon is a lighthouse that a test runs.
type beacon struct {
	*lighthouse.Server
	addr string
	stop func()
}

// light starts a lighthouse; addr may be that of one that was stopped.
func light(t testing.TB, addr string) *beacon {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s, err := lighthouse.Listen(ctx, addr, lighthouse.Options{})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	b := &beacon{Server: s, addr: s.Addr().String()}
	stopped := false
	b.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	}
	t.Cleanup(b.stop)
	return b
}

func config(more map[string]any, servers ...string) map[string]any {
	list := make([]any, len(servers))
	for i, s := range servers {
		list[i] = s
	}
	c := map[string]any{"servers": list, "beat": "500ms", "timeout": "500ms"}
	for k, v := range more {
		c[k] = v
	}
	return c
}

// Real sockets: a lighthouse on this machine ends and comes back at its port.
// Afterwards no descriptor is left.
func TestRestartOnRealSockets(t *testing.T) {
	before := descriptors(t)
	b := light(t, "127.0.0.1:0")
	c, err := plugin.Pipe(t.Context(), lighthousediscovery.Plugin(), plugin.Options{Config: config(nil, b.addr)})
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.Discovery()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := d.Announce(t.Context(), []sdk.Envelope{sdk.Envelope("x")}); err != nil {
			t.Fatalf("announcement %d: %v", i, err)
		}
		b.stop()
		if err := d.Announce(t.Context(), []sdk.Envelope{sdk.Envelope("y")}); sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Fatalf("announcement %d without a lighthouse: %v", i, err)
		}
		b = light(t, b.addr)
		// The plugin comes back by itself, after a pause that it doubles.
		for end := time.Now().Add(20 * time.Second); b.Stats().Nodes != 1 && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
	}
	c.Stop(t.Context())
	if st := b.Stats(); st.Nodes != 0 {
		t.Errorf("after the goodbye: %+v", st)
	}
	b.stop()
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestContractInThisProcess(t *testing.T) {
	b := light(t, "127.0.0.1:0")
	plugintest.Test(t, plugintest.InProcess(lighthousediscovery.Plugin()), plugintest.Options{Config: config(nil, b.addr)})
}

func TestContractAsProcess(t *testing.T) {
	b := light(t, "[::1]:0")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	plugintest.Test(t, plugintest.Command(self), plugintest.Options{
		Env: []string{serve + "=1"}, Config: config(nil, b.addr),
	})
}
