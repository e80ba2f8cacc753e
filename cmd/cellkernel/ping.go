package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

// A pingReport is what ping says as JSON. Times are in microseconds.
type pingReport struct {
	Node   string        `json:"node"`
	Sent   int           `json:"sent"`
	Got    int           `json:"got"`
	MinUS  int64         `json:"min_us"`
	AvgUS  int64         `json:"avg_us"`
	MaxUS  int64         `json:"max_us"`
	Pulses []admin.Pulse `json:"pulses"`
}

func (a *app) pingCommand() *cobra.Command {
	r := admin.PingRequest{}
	cmd := &cobra.Command{
		Use:   "ping NODE",
		Short: "Call the kernel of another node and tell how long the answers took",
		Long: `Ping makes a link to the kernel of a node, secured like every link between machines, and calls it. NODE is
a name or id that "cellkernel peers" shows, the beginning of an id, or an address where a node listens:
"10.0.0.2:9000". It ends with 5 if no answer came, 4 if nobody has seen the node, 6 if
it is kept out of the mesh, or this node is.`,
		Example:           "  cellkernel ping desk\n  cellkernel ping -c 100 10.0.0.2:9000",
		Args:              args(1, 1),
		ValidArgsFunction: a.completeNodes,
		RunE: func(cmd *cobra.Command, words []string) error {
			if r.Count < 1 || r.Count > admin.MaxPings {
				return usage(fmt.Errorf("read flag --count: want 1 to %d, got %d", admin.MaxPings, r.Count))
			}
			r.Node = words[0]
			return a.ping(cmd, r)
		},
	}
	cmd.Flags().IntVarP(&r.Count, "count", "c", 4, "how often to ask")
	a.outputFlag(cmd)
	return cmd
}

func (a *app) ping(cmd *cobra.Command, r admin.PingRequest) error {
	c, err := a.connect(cmd.Context())
	if err != nil {
		return err
	}
	defer c.Close()
	report := pingReport{Node: r.Node, Pulses: []admin.Pulse{}}
	err = c.Ping(cmd.Context(), r, func(p admin.Pulse) error {
		report.add(p)
		if a.output != "json" {
			fmt.Fprintln(a.stdout, pulseText(p))
		}
		return nil
	})
	if err != nil && report.Sent == 0 {
		return pingHint(err, r.Node)
	}
	if err := a.show(report, func(w io.Writer) error { return report.text(w) }); err != nil {
		return err
	}
	if err == nil && report.Got == 0 {
		return &exitError{exitUnreachable}
	}
	return err
}

// pingHint says where to look if a node can not be asked.
func pingHint(err error, node string) error {
	switch admin.CauseOf(err) {
	case admin.CauseKeptOut:
		return withHint(err, `"cellkernel deny --list" says who is kept out here, "cellkernel undeny" lets a node in again`)
	case admin.CauseNoNetwork:
		return withHint(err, `give a cell listen = true in genome.toml, then "cellkernel up"`)
	case admin.CauseNotListening:
		return withHint(err, `give a cell listen = true in the genome.toml of that node, then "cellkernel up" there`)
	}
	switch sdk.CodeOf(err) {
	case sdk.CodeNotFound:
		return withHint(err, `"cellkernel peers" lists the nodes`)
	case sdk.CodeDenied:
		return withHint(err, `"cellkernel deny --list" there says who is kept out; if the secret of the mesh was replaced, "cellkernel join --replace" takes the new one`)
	case sdk.CodeUnavailable:
		return withHint(err, `"cellkernel explain golgi@%s" tries every address`, node)
	}
	return err
}

func (r *pingReport) add(p admin.Pulse) {
	r.Sent++
	r.Pulses = append(r.Pulses, p)
	if p.Error != "" {
		return
	}
	r.Got++
	times := []int64{}
	var sum int64
	for _, x := range r.Pulses {
		if x.Error == "" {
			times, sum = append(times, x.RTTUS), sum+x.RTTUS
		}
	}
	r.MinUS, r.AvgUS, r.MaxUS = slices.Min(times), sum/int64(len(times)), slices.Max(times)
}

func pulseText(p admin.Pulse) string {
	if p.Error != "" {
		return fmt.Sprintf("%d: %s", p.Seq, printable(p.Error))
	}
	text := fmt.Sprintf("%d: %s (%s) by %s: %s", p.Seq, printable(p.Name), p.Node.Short(), printable(p.Path), rttText(p.RTTUS))
	if p.ConnectUS > 0 {
		text += fmt.Sprintf(", after %s for the link", rttText(p.ConnectUS))
	}
	return text
}

func (r *pingReport) text(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%d of %d answered", r.Got, r.Sent)
	if err == nil && r.Got > 0 {
		_, err = fmt.Fprintf(w, ": min %s, avg %s, max %s", rttText(r.MinUS), rttText(r.AvgUS), rttText(r.MaxUS))
	}
	if err == nil {
		_, err = fmt.Fprintln(w)
	}
	return err
}

// completeNodes offers the names of nodes that can be asked.
func (a *app) completeNodes(cmd *cobra.Command, words []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(words) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(cmd, nodeNames)
}
