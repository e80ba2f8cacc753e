package jsonledger_test

import (
	"os"
	"testing"

	"github.com/cellkernel/cellkernel/plugins/ledger-json/jsonledger"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/plugintest"
)

const serve = "TEST_SERVE"

func TestMain(m *testing.M) {
	if os.Getenv(serve) != "" {
		plugin.Main(jsonledger.Plugin())
		return
	}
	if dir := os.Getenv(scripted); dir != "" {
		os.Exit(script(dir))
	}
	os.Exit(m.Run())
}

func asProcess(t testing.TB) (plugintest.Target, plugintest.Options) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return plugintest.Command(self), plugintest.Options{Env: []string{serve + "=1"}}
}

func TestContractInThisProcess(t *testing.T) {
	plugintest.Test(t, plugintest.InProcess(jsonledger.Plugin()), plugintest.Options{})
}

func TestContractAsProcess(t *testing.T) {
	target, o := asProcess(t)
	plugintest.Test(t, target, o)
}

// Segments of a few records each, and a checkpoint behind every few.
func TestContractInSmallSegments(t *testing.T) {
	plugintest.Test(t, plugintest.InProcess(jsonledger.Plugin()), plugintest.Options{Config: map[string]any{"segment": 4096, "checkpoint": 4096}})
}

func BenchmarkProcess(b *testing.B) {
	target, o := asProcess(b)
	plugintest.BenchmarkLedger(b, target, o)
}
