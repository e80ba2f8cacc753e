package multicastdiscovery_test

import (
	"os"
	"testing"

	"github.com/cellkernel/cellkernel/plugins/discovery-multicast/multicastdiscovery"
	"github.com/cellkernel/cellkernel/sdk/plugin/plugintest"
)

func asProcess(t testing.TB) (plugintest.Target, plugintest.Options) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return plugintest.Command(self), plugintest.Options{Env: []string{serve + "=1"}}
}

func TestContractInThisProcess(t *testing.T) {
	needNamespace(t)
	plugintest.Test(t, plugintest.InProcess(multicastdiscovery.Plugin()), plugintest.Options{})
}

func TestContractAsProcess(t *testing.T) {
	needNamespace(t)
	target, o := asProcess(t)
	plugintest.Test(t, target, o)
}
