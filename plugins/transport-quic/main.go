// Command transport-quic is the transport between machines: QUIC over UDP.
package main

import (
	"github.com/cellkernel/cellkernel/plugins/transport-quic/quictransport"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

func main() { plugin.Main(quictransport.Plugin()) }
