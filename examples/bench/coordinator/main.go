// The job coordinator measures calls to workers, and in alternating rounds of
// the same run the same work over gRPC and over a bare socket.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/cellkernel/cellkernel/examples/bench/result"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

type options struct {
	json     string
	quick    bool
	only     string
	system   string
	replicas int
	rounds   int
	round    time.Duration

	far farOptions

	serve string // what this process serves as a baseline; empty: it is the coordinator
	at    string
}

func main() {
	o, err := parse(os.Args[1:])
	if err != nil {
		os.Exit(2) // flag has said why
	}
	if o.serve != "" {
		os.Exit(baselineMain(o.serve, o.at))
	}
	cell.Main(func(ctx context.Context, m *cell.Membrane) error { return coordinate(ctx, m, o) })
}

func parse(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("coordinator", flag.ContinueOnError)
	fs.StringVar(&o.json, "json", "", "write the results to this file, too")
	fs.BoolVar(&o.quick, "quick", false, "measure next to nothing: for tests")
	fs.IntVar(&o.replicas, "replicas", 4, "replicas of worker, as in the genome")
	fs.StringVar(&o.only, "only", "", "measure only rows whose name/in-flight contains this: echo-64B/1")
	fs.StringVar(&o.system, "system", "", "measure only systems whose name contains this: for profiles")
	fs.IntVar(&o.rounds, "rounds", 3, "rounds, of which the median counts")
	fs.DurationVar(&o.round, "round", 500*time.Millisecond, "length of one round of one system")
	fs.StringVar(&o.far.grpc, "far-grpc", "", "what the baseline grpc-tcp-tls said when it was ready; echo is then on another machine")
	fs.StringVar(&o.far.quic, "far-quic", "", "what the baseline quic-raw said")
	fs.StringVar(&o.serve, "serve", "", "serve a baseline: grpc, raw, grpc-tcp-tls or quic-raw")
	fs.StringVar(&o.at, "at", "", "where the baseline listens: the path of a socket, or host:port")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if o.rounds < 1 || o.replicas < 1 || o.round <= 0 || fs.NArg() > 0 {
		err := fmt.Errorf("coordinator: want at least one round, one replica and no arguments")
		fmt.Fprintln(os.Stderr, err)
		return o, err
	}
	if o.quick {
		o.rounds, o.round = 1, 30*time.Millisecond
	}
	return o, nil
}

// coordinate runs everything and prints the table.
func coordinate(ctx context.Context, m *cell.Membrane, o options) error {
	if o.far.grpc != "" {
		return coordinateFar(ctx, m, o)
	}
	one, four := newCells(m, "echo", 1), newCells(m, "worker", o.replicas)
	for _, c := range []*cells{one, four} {
		if _, err := c.each(ctx); err != nil {
			return err
		}
	}
	base, err := startBaselines(ctx)
	if err != nil {
		return err
	}
	defer base.close()
	b := &bench{options: o, one: one, four: four, base: base}
	report := &result.Report{Machine: result.ThisMachine()}
	if report.Results, err = b.run(ctx); err != nil {
		return err
	}
	report.Ratios = result.Ratios(report.Results)
	report.Claims = append(claims(report.Results), b.burnClaims()...)
	return publish(report, o)
}

// publish writes the report to where it is wanted.
func publish(report *result.Report, o options) error {
	if o.json != "" {
		if err := report.Write(o.json); err != nil {
			return err
		}
	}
	return report.Table(os.Stdout)
}
