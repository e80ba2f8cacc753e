// Package procstat reads /proc/PID/stat, proc(5): for both the sdk and the
// kernel, which know nothing of each other's inside.
package procstat

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Tick is the unit of times there: USER_HZ is 100 on every architecture that
// Go runs Linux on.
const Tick = 10 * time.Millisecond

// A Stat is what one line says.
type Stat struct {
	State     byte          // 'R', 'S', 'Z'…
	Parent    int           // its process id
	Own       time.Duration // user and system time of the process
	All       time.Duration // Own, and that of children that were waited for
	StartTime uint64        // field 22, clock ticks since boot
	RSS       int64         // resident bytes
}

// Read reads the line of a process.
func Read(pid int) (Stat, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Stat{}, err
	}
	return Parse(string(data))
}

// Parse parses a line. The command's name is in parentheses and may itself
// hold spaces and parentheses.
func Parse(line string) (Stat, error) {
	end := strings.LastIndexByte(line, ')')
	if end < 0 {
		return Stat{}, fmt.Errorf("parse stat %.80q: no command", line)
	}
	f := strings.Fields(line[end+1:]) // f[0] is field 3, the state
	if len(f) < 22 || len(f[0]) != 1 {
		return Stat{}, fmt.Errorf("parse stat %.80q: %d fields", line, len(f)+2)
	}
	var n [22]int64 // as f
	for _, i := range []int{1, 11, 12, 13, 14, 21} {
		var err error
		if n[i], err = strconv.ParseInt(f[i], 10, 64); err != nil {
			return Stat{}, fmt.Errorf("parse stat %.80q: %w", line, err)
		}
	}
	start, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return Stat{}, fmt.Errorf("parse stat %.80q: %w", line, err)
	}
	own := time.Duration(n[11]+n[12]) * Tick // utime, stime
	return Stat{
		State: f[0][0], Parent: int(n[1]), Own: own, All: own + time.Duration(n[13]+n[14])*Tick, // cutime, cstime
		StartTime: start, RSS: n[21] * int64(os.Getpagesize()),
	}, nil
}
