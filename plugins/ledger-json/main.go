// Command ledger-json keeps the book of a node in files that people can read.
package main

import (
	"github.com/cellkernel/cellkernel/plugins/ledger-json/jsonledger"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

func main() { plugin.Main(jsonledger.Plugin()) }
