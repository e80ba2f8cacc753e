// Command transport-uds is the transport between the cells of one machine.
package main

import (
	"github.com/cellkernel/cellkernel/plugins/transport-uds/udstransport"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

func main() { plugin.Main(udstransport.Plugin()) }
