package main

import (
	"github.com/cellkernel/cellkernel/plugins/transport-quic/quictransport"
	"github.com/cellkernel/cellkernel/plugins/transport-uds/udstransport"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/memplugin"
)

// builtins returns the plugins inside this program, by kind and name. The
// "mem" ones keep everything in memory: they are for development.
func builtins() map[string]plugin.Plugin {
	return map[string]plugin.Plugin{
		"transport-quic": quictransport.Plugin(),
		"transport-uds":  udstransport.Plugin(),
		"transport-mem":  memplugin.Transport(),
		"discovery-mem":  memplugin.Discovery(),
		"ledger-mem":     memplugin.Ledger(),
		"billing-mem":    memplugin.Billing(),
	}
}
