package netlab

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Datagrams counts the UDP datagrams of IPv4 that sockets on the host have
// read: proc_net_snmp's InDatagrams.
func (h *Host) Datagrams() (n uint64, err error) {
	var text []byte
	if err := h.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err
	}); err != nil {
		return 0, fmt.Errorf("count datagrams of %q: %w", h.Name, err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Udp:" && f[1] != "InDatagrams" {
			return strconv.ParseUint(f[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("count datagrams of %q: the system does not", h.Name)
}
