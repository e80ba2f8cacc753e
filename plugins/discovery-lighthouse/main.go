// Command discovery-lighthouse finds the nodes of a mesh through servers that
// all of them can reach.
package main

import (
	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/lighthousediscovery"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

func main() { plugin.Main(lighthousediscovery.Plugin()) }
