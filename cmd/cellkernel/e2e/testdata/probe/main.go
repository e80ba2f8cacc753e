// Probe is every process that the end-to-end tests let a kernel run: cells
// that do what they are told, and programs that know nothing of cells.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/e2e/testdata/probe/api"
	newer "github.com/cellkernel/cellkernel/cmd/cellkernel/e2e/testdata/probe/new"
	older "github.com/cellkernel/cellkernel/cmd/cellkernel/e2e/testdata/probe/old"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

func main() {
	roles := map[string]func(args []string) error{
		"serve": serve, "old": serveOld, "new": serveNew, "once": once, "stubborn": stubborn,
		"exit": exit, "listen": listen, "flood": flood, "junk": junk, "orphan": orphan,
	}
	if len(os.Args) < 2 || roles[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "probe: want a role")
		os.Exit(2)
	}
	if err := roles[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func serve([]string) error {
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		fmt.Println("serving", m.Name(), m.Replica())
		api.RegisterProbe(m, &probe{m: m})
		return m.Serve(ctx)
	})
	return nil
}

func serveOld([]string) error {
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		older.RegisterStore(m, oldStore{})
		return m.Serve(ctx)
	})
	return nil
}

func serveNew([]string) error {
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		newer.RegisterStore(m, newStore{})
		return m.Serve(ctx)
	})
	return nil
}

// once is a job: it calls a cell, prints the answer and ends with a code.
func once(args []string) error {
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		if len(args) > 1 {
			r, err := api.NewProbeClient(m.Synapse(nameOf(args[1]))).Echo(ctx, &api.Text{Text: "once"})
			if err != nil {
				return err
			}
			fmt.Printf("%s from %s\n", r.Text, r.Cell)
		}
		slog.Info("job says this on standard error")
		if args[0] != "0" {
			os.Exit(number(args[0]))
		}
		return nil
	})
	return nil
}

type oldStore struct{}

func (oldStore) Put(_ context.Context, in *older.Item) (*older.Receipt, error) {
	return &older.Receipt{Key: in.Key, Version: 1}, nil
}

type newStore struct{}

func (newStore) Put(_ context.Context, in *newer.Item) (*newer.Receipt, error) {
	return &newer.Receipt{Key: in.Key, Version: 2, Owner: in.Owner}, nil
}

func (newStore) Count(context.Context, *newer.Item) (*newer.Receipt, error) {
	return nil, errors.New("count: nothing is counted")
}
