// The plugin transport-uds, run by path, is the bundled one that in addition tells
// whoever asks what its process holds: no call of a plugin's contract does.
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"

	"github.com/cellkernel/cellkernel/examples/acceptance/probe"
	"github.com/cellkernel/cellkernel/plugins/transport-uds/udstransport"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

func main() {
	l, err := net.Listen("unix", probe.VitalsOf(os.Getpid()))
	if err != nil {
		fmt.Fprintln(os.Stderr, "transport-uds:", err)
		os.Exit(1)
	}
	go tell(l) // until the process ends
	plugin.Main(udstransport.Plugin())
}

// tell answers each connection with the vitals of this process.
func tell(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = json.NewEncoder(c).Encode(probe.Take()) // to one who may have left
		c.Close()
	}
}
