// Command transport-tcp is a complete plugin to start from: copy the
// directory, rename it, and see docs/plugins.md.
package main

import (
	"github.com/cellkernel/cellkernel/examples/template-plugin/tcptransport"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

func main() { plugin.Main(tcptransport.Plugin()) }
