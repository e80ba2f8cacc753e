package memplugin

import (
	"context"

	"github.com/cellkernel/cellkernel/internal/procstat"
	"github.com/cellkernel/cellkernel/sdk"
)

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

// read returns what a process has used, children included that it has waited
// for.
func read(r sdk.Running) (sdk.Usage, bool) {
	st, err := procstat.Read(r.PID)
	if err != nil || st.StartTime != r.StartTime {
		return sdk.Usage{}, false
	}
	return sdk.Usage{ID: r.ID, CPU: st.All, RSS: st.RSS, Source: "procfs"}, true
}
