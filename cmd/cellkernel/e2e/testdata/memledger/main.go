// Memledger is a ledger that somebody else has made, and that keeps nothing.
package main

import (
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/memplugin"
)

func main() { plugin.Main(memplugin.Ledger()) }
