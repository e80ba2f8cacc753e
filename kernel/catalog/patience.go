package catalog

import (
	"fmt"
	"os"
	"strconv"
	"strings"
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

// cpuOf returns the CPU time of a process in clock ticks, 0 if it is gone:
// fields 14 and 15 of its stat, proc(5).
func cpuOf(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name in parentheses may contain anything, parentheses included.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:])) // f[0] is field 3
	var ticks int64
	for _, i := range []int{11, 12} {
		if i < len(f) {
			n, _ := strconv.ParseInt(f[i], 10, 64) // 0 if it is none
			ticks += n
		}
	}
	return ticks
}
