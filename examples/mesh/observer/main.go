// The job observer has fifty chatterboxes talk to each other, collects what
// they counted and timed, and prints it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/cellkernel/cellkernel/examples/bench/result"
	"github.com/cellkernel/cellkernel/examples/mesh/gossip"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

type options struct {
	json     string
	replicas int
	rate     int // messages/s of all replicas
	time     time.Duration
	calls    int
	herald   bool
}

func main() {
	o, err := parse(os.Args[1:])
	if err != nil {
		os.Exit(2) // flag has said why
	}
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		clients := []gossip.ChatterboxClient{gossip.NewChatterboxClient(m.Synapse("chatterbox"))}
		if o.herald {
			clients = append(clients, gossip.NewChatterboxClient(m.Synapse("herald")))
		}
		return observe(ctx, clients, o)
	})
}

func parse(args []string) (options, error) {
	var o options
	quick := false
	fs := flag.NewFlagSet("observer", flag.ContinueOnError)
	fs.StringVar(&o.json, "json", "", "write the results to this file, too")
	fs.IntVar(&o.replicas, "replicas", 50, "replicas of chatterbox, as in the genome")
	fs.IntVar(&o.rate, "rate", 10_500, "messages a second, of all replicas together")
	fs.DurationVar(&o.time, "time", 30*time.Second, "how long they talk")
	fs.IntVar(&o.calls, "calls", 10_000, "plain calls to the name all share")
	fs.BoolVar(&o.herald, "herald", false, "half of the replicas are on another machine, behind the cell herald")
	fs.BoolVar(&quick, "quick", false, "measure next to nothing: for tests")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if quick {
		o.time, o.calls = 300*time.Millisecond, 500
	}
	if o.replicas < 2 || o.rate < 1 || o.time <= 0 || o.calls < 1 || fs.NArg() > 0 {
		err := fmt.Errorf("observer: want at least two replicas, some time, a rate, calls, and no arguments")
		fmt.Fprintln(os.Stderr, err)
		return o, err
	}
	return o, nil
}

// observe runs everything and prints the table.
func observe(ctx context.Context, clients []gossip.ChatterboxClient, o options) error {
	v := &observer{options: o, clients: clients}
	if err := v.meet(ctx); err != nil {
		return err
	}
	plain, err := v.plain(ctx)
	if err != nil {
		return err
	}
	mesh, err := v.mesh(ctx)
	if err != nil {
		return err
	}
	report := &result.Report{
		Machine: result.ThisMachine(), Results: []result.Row{mesh.row(o), plain.row(o)},
		Ratios: map[string]result.Ratio{}, Claims: append(mesh.claims(), plain.claims(o)...),
	}
	if o.json != "" {
		if err := report.Write(o.json); err != nil {
			return err
		}
	}
	return show(os.Stdout, report, mesh, plain)
}
