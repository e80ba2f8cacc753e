// Command discovery-multicast finds the nodes of a local network.
package main

import (
	"github.com/cellkernel/cellkernel/plugins/discovery-multicast/multicastdiscovery"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

func main() { plugin.Main(multicastdiscovery.Plugin()) }
