package cgroupbilling_test

import (
	"os"
	"testing"

	"github.com/cellkernel/cellkernel/plugins/billing-cgroup/cgroupbilling"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/plugintest"
)

const serve = "TEST_SERVE"

func TestMain(m *testing.M) {
	if os.Getenv(serve) != "" {
		plugin.Main(cgroupbilling.Plugin())
		return
	}
	os.Exit(m.Run())
}

// The contract holds on every rung of the ladder that this machine has.
func TestContract(t *testing.T) {
	for _, source := range cgroupbilling.DefaultConfig().Ladder {
		t.Run(source, func(t *testing.T) {
			if why := cgroupbilling.Try(source); why != nil {
				t.Skipf("%s does not work here: %v", source, why)
			}
			o := plugintest.Options{Config: map[string]any{"ladder": []string{source}}}
			t.Run("in this process", func(t *testing.T) {
				plugintest.Test(t, plugintest.InProcess(cgroupbilling.Plugin()), o)
			})
			t.Run("as a process", func(t *testing.T) {
				self, err := os.Executable()
				if err != nil {
					t.Fatal(err)
				}
				o := o
				o.Env = []string{serve + "=1"}
				plugintest.Test(t, plugintest.Command(self), o)
			})
		})
	}
}

func TestDefaultConfigIsValid(t *testing.T) {
	if err := cgroupbilling.DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	for _, ladder := range [][]string{nil, {"cgroup"}, {"procfs", "procfs"}} {
		if (cgroupbilling.Config{Ladder: ladder}).Validate() == nil {
			t.Errorf("ladder %q is valid", ladder)
		}
	}
}

func BenchmarkProcess(b *testing.B) {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	plugintest.BenchmarkBilling(b, plugintest.Command(self), plugintest.Options{Env: []string{serve + "=1"}})
}
