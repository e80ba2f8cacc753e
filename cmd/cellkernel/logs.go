package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel"
	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

type logsFlags struct {
	follow bool
	since  string
	tail   int
}

func (a *app) logsCommand() *cobra.Command {
	var f logsFlags
	cmd := &cobra.Command{
		Use:   "logs [cell|cell#replica|kernel|plugin]...",
		Short: "Show what cells, plugins and the kernel wrote",
		Long: `Logs shows stored lines in order of time: of everything, or of the cells, replicas
("worker#2"), plugins ("transport-quic") and the kernel ("kernel") that are named.`,
		Example:           "  cellkernel logs -f worker\n  cellkernel logs --since 10m kernel transport-uds",
		Args:              args(0, -1),
		ValidArgsFunction: a.completeSources,
		RunE: func(cmd *cobra.Command, names []string) error {
			q, err := f.query(names, time.Now())
			if err != nil {
				return err
			}
			return a.logs(cmd, q)
		},
	}
	cmd.Flags().BoolVarP(&f.follow, "follow", "f", false, "go on with new lines as they are written")
	cmd.Flags().StringVar(&f.since, "since", "", "only lines since a time (2006-01-02T15:04:05Z) or for a duration (10m)")
	cmd.Flags().IntVar(&f.tail, "tail", 0, "only the last lines of each cell, plugin and the kernel, so many (0: all)")
	a.outputFlag(cmd)
	return cmd
}

// query returns what the flags ask for.
func (f *logsFlags) query(names []string, now time.Time) (admin.LogQuery, error) {
	q := admin.LogQuery{Sources: names, Tail: f.tail, Follow: f.follow}
	if f.tail < 0 || f.tail > admin.MaxTail {
		return q, usage(fmt.Errorf("read flag --tail: want 0 to %d, got %d", admin.MaxTail, f.tail))
	}
	if f.since == "" {
		return q, nil
	}
	if d, err := time.ParseDuration(f.since); err == nil && d >= 0 {
		q.Since = now.Add(-d)
		return q, nil
	}
	t, err := time.Parse(time.RFC3339Nano, f.since)
	if err != nil {
		return q, usage(fmt.Errorf("read flag --since: want a time like 2006-01-02T15:04:05Z or a duration like 10m, got %q", f.since))
	}
	q.Since = t
	return q, nil
}

func (a *app) logs(cmd *cobra.Command, q admin.LogQuery) error {
	p := newLogPrinter(a.stdout, true)
	yield := p.print
	if a.output == "json" {
		yield = func(r admin.LogRecord) error { return writeJSON(a.stdout, r) }
	}
	c, err := a.here(cmd.Context())
	if dir := a.storedLogs(); c == nil && dir != "" && !q.Follow && (err == nil || sdk.CodeOf(err) == sdk.CodeUnavailable) {
		fmt.Fprintf(a.stderr, "cellkernel: no kernel runs here: these are the logs in %s\n", printable(relative(dir)))
		return kernel.StoredLogs(cmd.Context(), dir, q, yield)
	}
	if c == nil && err == nil {
		c, err = a.onlyOne(cmd.Context())
	}
	if err != nil {
		return err
	}
	defer c.Close()
	switch err := c.Logs(cmd.Context(), q, yield); {
	case q.Follow && cmd.Context().Err() == nil && sdk.CodeOf(err) == sdk.CodeUnavailable:
		return sdk.Errorf(sdk.CodeUnavailable, "follow logs: the kernel of %s was killed", relative(c.Version().Genome))
	case err != nil:
		return withHint(err, `"cellkernel ps" lists the names`)
	}
	return cmd.Context().Err() // following ends well when it is interrupted, the command does not
}

// storedLogs returns where the kernel of the genome that is meant keeps its
// logs, or "" if there are none.
func (a *app) storedLogs() string {
	file, err := a.genomeFile()
	if err == nil && file == "" {
		file, err = nearestManifest()
	}
	if err != nil {
		return ""
	}
	dir := filepath.Join(filepath.Dir(file), ".cell", "logs")
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return ""
	}
	return dir
}

// A logPrinter writes log records for people: "worker#2 | text".
type logPrinter struct {
	w        io.Writer
	times    bool
	colour   bool
	terminal bool
	width    int    // of the longest name so far
	open     string // whose line has no end yet
}

func newLogPrinter(w io.Writer, times bool) *logPrinter {
	return &logPrinter{w: w, times: times, colour: colourful(w), terminal: isTerminal(w)}
}

// print writes one record. Pieces of a long line are joined again.
func (p *logPrinter) print(r admin.LogRecord) error {
	id, text := r.ID(), r.Text
	if p.terminal {
		text = printable(text) // a file gets every byte as it was
	}
	var line []byte
	if p.open != id {
		if p.open != "" {
			line = append(line, '\n')
		}
		if p.times {
			line = r.Time.Local().AppendFormat(line, "2006-01-02 15:04:05.000 ")
		}
		p.width = min(max(p.width, len(id)), 24)
		line = append(line, paint(p.colour, colourOf(r.Name), fmt.Sprintf("%-*s |", p.width, id))...)
		line = append(line, ' ')
	}
	line = append(line, text...)
	p.open = id
	if !r.Partial {
		p.open = ""
		line = append(line, '\n')
	}
	_, err := p.w.Write(line)
	return err
}
