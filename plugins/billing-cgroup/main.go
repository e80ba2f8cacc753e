// Command billing-cgroup meters processes by their cgroups.
package main

import (
	"github.com/cellkernel/cellkernel/plugins/billing-cgroup/cgroupbilling"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

func main() { plugin.Main(cgroupbilling.Plugin()) }
