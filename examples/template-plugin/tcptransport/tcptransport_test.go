package tcptransport_test

import (
	"os"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/examples/template-plugin/tcptransport"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/plugintest"
)

// The test binary is the plugin, too, when the tests start it again.
func TestMain(m *testing.M) {
	if os.Getenv("SERVE_PLUGIN") != "" {
		plugin.Main(tcptransport.Plugin())
		return
	}
	os.Exit(m.Run())
}

func TestContractInThisProcess(t *testing.T) {
	plugintest.Test(t, plugintest.InProcess(tcptransport.Plugin()), plugintest.Options{})
}

func TestContractAsProcess(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	plugintest.Test(t, plugintest.Command(self), plugintest.Options{Env: []string{"SERVE_PLUGIN=1"}})
}

func BenchmarkTransport(b *testing.B) {
	plugintest.BenchmarkTransport(b, plugintest.InProcess(tcptransport.Plugin()), plugintest.Options{})
}

func TestConfig(t *testing.T) {
	for name, config := range map[string]map[string]any{
		"misspelt":   {"keepalive": "1s"},
		"impossible": {"keep-alive": "1ms"},
		"type":       {"keep-alive": 5},
	} {
		_, err := plugin.Pipe(t.Context(), tcptransport.Plugin(), plugin.Options{Config: config})
		if sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), "keep-alive") {
			t.Errorf("%s: got %v, want an error that names the key", name, err)
		}
	}
}
