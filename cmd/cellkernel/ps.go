package main

import (
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
)

func (a *app) psCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "ps",
		Short:             "List the processes of the kernel",
		Long:              "Ps lists the kernel, every replica of its cells, and its plugins.",
		Args:              args(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := brief(cmd)
			defer cancel()
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			procs, err := c.Processes(ctx)
			if err != nil {
				return err
			}
			return a.show(procs, func(w io.Writer) error { return psTable(w, procs) })
		},
	}
	a.outputFlag(cmd)
	return cmd
}

func psTable(w io.Writer, procs []admin.Process) error {
	var rows [][]string
	for _, p := range procs {
		rows = append(rows, []string{p.ID(), p.Kind, string(p.State), number(p.PID), strconv.Itoa(p.Restarts),
			timeText(p.UptimeMS, time.Millisecond), bytesText(p.RSSBytes), timeText(p.CPUUS, time.Microsecond), stallText(&p), p.Meter, p.Detail})
	}
	return table(w, []string{"NAME", "KIND", "STATE", "PID", "RESTARTS", "UP", "RSS", "CPU", "STALLED", "METER", "DETAIL"}, rows)
}

// stallText is how long a process waited for a CPU: only billings know, and only
// of cells.
func stallText(p *admin.Process) string {
	if p.StallUS == 0 {
		return "-"
	}
	return timeText(p.StallUS, time.Microsecond)
}

// number is n for a table, where 0 means that there is none.
func number(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}
