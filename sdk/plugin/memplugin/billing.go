package memplugin

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// tick is the unit of the times in /proc/PID/stat: USER_HZ is 100 on every
// architecture Go runs Linux on.
const tick = 10 * time.Millisecond

// billing reads /proc: no meter exists before the process does.
type billing struct{}

// Place places nothing.
func (b *billing) Place(context.Context, sdk.Workload) (sdk.Placement, error) {
	return sdk.Placement{Source: "procfs"}, nil
}

// Usage leaves out processes that are gone or whose number is another's.
func (b *billing) Usage(ctx context.Context, live []sdk.Running) ([]sdk.Usage, error) {
	var usage []sdk.Usage
	for _, r := range live {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if u, ok := read(r); ok {
			usage = append(usage, u)
		}
	}
	return usage, nil
}

// Close takes the kernel's figure, which counts children that were waited for.
func (b *billing) Close(_ context.Context, r sdk.Running, exit sdk.Exit) (sdk.Usage, error) {
	return sdk.Usage{ID: r.ID, CPU: exit.CPU, Source: "rusage"}, nil
}

// read parses the fields of proc_pid_stat(5) behind the name, which may
// contain anything.
func read(r sdk.Running) (sdk.Usage, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.PID))
	if err != nil {
		return sdk.Usage{}, false
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // f[0] is field 3
	if len(f) < 22 || f[19] != strconv.FormatUint(r.StartTime, 10) {
		return sdk.Usage{}, false
	}
	var ticks, pages int64
	for _, i := range []int{11, 12, 13, 14} { // utime stime cutime cstime
		n, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return sdk.Usage{}, false
		}
		ticks += n
	}
	if pages, err = strconv.ParseInt(f[21], 10, 64); err != nil {
		return sdk.Usage{}, false
	}
	return sdk.Usage{ID: r.ID, CPU: time.Duration(ticks) * tick, RSS: pages * int64(os.Getpagesize()), Source: "procfs"}, true
}
