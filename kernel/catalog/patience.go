package catalog

import (
	"time"

	"github.com/cellkernel/cellkernel/internal/procstat"
)

// A patience counts pings that were not answered. A process that did nothing
// meanwhile is stopped or hangs; one that computed may be starved by others,
// or have a thousand handshakes to make, and is given more time.
type patience struct {
	misses int // in a row
	idle   int // of them, those in which it did nothing
}

// answered begins anew.
func (p *patience) answered() { *p = patience{} }

// missed counts one miss, in which the process computed or did not. It reports
// whether the patience has come to its end.
func (p *patience) missed(computed bool) bool {
	p.misses++
	if !computed {
		p.idle++
	}
	return p.idle >= pingMisses || p.misses >= busyMisses
}

// cpuOf returns the CPU time of a process, 0 if it is gone.
func cpuOf(pid int) time.Duration {
	st, err := procstat.Read(pid)
	if err != nil {
		return 0
	}
	return st.Own
}
