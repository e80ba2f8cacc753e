package plugintest_test

import (
	"os"
	"testing"

	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/memplugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/plugintest"
)

// The test binary is every plugin that the tests start as a process.
func TestMain(m *testing.M) {
	if name := os.Getenv("TEST_PLUGIN"); name != "" {
		serve(name)
		return
	}
	os.Exit(m.Run())
}

func serve(name string) {
	plugins := map[string]func() plugin.Plugin{
		"transport": memplugin.Transport, "discovery": memplugin.Discovery,
		"ledger": memplugin.Ledger, "billing": memplugin.Billing,
	}
	if p, ok := plugins[name]; ok {
		plugin.Main(p())
		return
	}
	if p, ok := broken()[name]; ok {
		plugin.Main(p)
		return
	}
	if f, ok := strange()[name]; ok {
		f()
		return
	}
	panic("no such plugin: " + name)
}

// process is a target that starts this binary as the plugin called name.
func process(t testing.TB, name string) (plugintest.Target, plugintest.Options) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return plugintest.Command(self), plugintest.Options{Env: []string{"TEST_PLUGIN=" + name}, Alone: true, Volatile: true}
}

func TestMemoryPluginsInThisProcess(t *testing.T) {
	for name, p := range map[string]plugin.Plugin{
		"transport": memplugin.Transport(), "discovery": memplugin.Discovery(),
		"ledger": memplugin.Ledger(), "billing": memplugin.Billing(),
	} {
		t.Run(name, func(t *testing.T) {
			plugintest.Test(t, plugintest.InProcess(p), plugintest.Options{Volatile: true})
		})
	}
}

func TestMemoryPluginsAsProcesses(t *testing.T) {
	for _, name := range []string{"transport", "discovery", "ledger", "billing"} {
		t.Run(name, func(t *testing.T) {
			target, o := process(t, name)
			plugintest.Test(t, target, o)
		})
	}
}

func BenchmarkMemory(b *testing.B) {
	b.Run("transport", func(b *testing.B) {
		plugintest.BenchmarkTransport(b, plugintest.InProcess(memplugin.Transport()), plugintest.Options{})
	})
	b.Run("discovery", func(b *testing.B) {
		plugintest.BenchmarkDiscovery(b, plugintest.InProcess(memplugin.Discovery()), plugintest.Options{})
	})
	b.Run("ledger", func(b *testing.B) {
		plugintest.BenchmarkLedger(b, plugintest.InProcess(memplugin.Ledger()), plugintest.Options{})
	})
	b.Run("billing", func(b *testing.B) {
		plugintest.BenchmarkBilling(b, plugintest.InProcess(memplugin.Billing()), plugintest.Options{})
	})
}
