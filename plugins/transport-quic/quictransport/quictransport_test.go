package quictransport_test

import (
	"os"
	"testing"

	"github.com/cellkernel/cellkernel/plugins/transport-quic/quictransport"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/plugintest"
)

const serve = "TEST_SERVE"

func TestMain(m *testing.M) {
	if os.Getenv(serve) != "" {
		plugin.Main(quictransport.Plugin())
		return
	}
	if run, ok := roles()[os.Getenv(role)]; ok {
		run()
		return
	}
	os.Exit(m.Run())
}

func asProcess(t testing.TB) (plugintest.Target, plugintest.Options) {
	return plugintest.Command(self(t)), plugintest.Options{Env: []string{serve + "=1"}}
}

func TestContractInThisProcess(t *testing.T) {
	plugintest.Test(t, plugintest.InProcess(quictransport.Plugin()), plugintest.Options{})
}

func TestContractAsProcess(t *testing.T) {
	target, o := asProcess(t)
	plugintest.Test(t, target, o)
}

func BenchmarkProcess(b *testing.B) {
	target, o := asProcess(b)
	plugintest.BenchmarkTransport(b, target, o)
}
