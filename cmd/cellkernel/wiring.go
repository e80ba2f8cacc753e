package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/cellkernel/cellkernel/kernel"
	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/config"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/kernel/supervisor"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// pluginCommand is the hidden command that serves a bundled plugin.
const servePlugin = "__plugin"

// helper runs the program as one of its own helpers, if args say so, and
// returns the exit code.
func helper(args []string) (code int, ok bool) {
	if len(args) == 0 {
		return 0, false
	}
	switch args[0] {
	case supervisor.StubCommand:
		return supervisor.ExecStub(args[1:]), true
	case supervisor.SweepCommand:
		return supervisor.SweepMain(args[1:]), true
	case servePlugin:
		return serveBuiltin(args[1:]), true
	}
	return 0, false
}

// serveBuiltin serves one of the bundled plugins to the kernel that started us.
func serveBuiltin(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "cellkernel: serve plugin: want one name")
		return exitUsage
	}
	p, ok := builtins()[args[0]]
	if !ok {
		fmt.Fprintf(os.Stderr, "cellkernel: serve plugin %q: not bundled\n", args[0])
		return exitNotFound
	}
	if err := plugin.Serve(context.Background(), p); err != nil {
		fmt.Fprintf(os.Stderr, "cellkernel: serve plugin %q: %v\n", args[0], err)
		return exitFailed
	}
	return 0
}

// bundled returns the arguments by which this program serves a bundled plugin.
func bundled(kind sdk.Kind, use string) (args []string, ok bool) {
	name := string(kind) + "-" + use
	_, ok = builtins()[name]
	return []string{servePlugin, name}, ok
}

// bootKernel makes a kernel of this process.
func bootKernel(_ context.Context, o bootOptions) (runner, error) {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("open own program: %w", err)
	}
	return kernel.New(kernel.Options{
		Plan: o.Plan, Genome: o.Genome, Origins: settings(o.Origins), Version: o.Version, Self: self, Stdout: o.Stdout,
		Bundled: bundled, Build: buildCells, Stale: staleCells,
		Load: func(p admin.Plan) (*genome.Genome, []admin.Setting, error) {
			g, origins, err := load(p)
			var conf *configError
			if errors.As(err, &conf) && conf.report != "" {
				err = errors.New(conf.report) // whoever asked is another process: it gets all of it
			}
			if err != nil {
				return nil, nil, err
			}
			return g, settings(origins), nil
		},
	}), nil
}

// settings turns the origins of a configuration into what the API shows.
func settings(o *config.Origins) []admin.Setting {
	var list []admin.Setting
	for _, v := range o.List() {
		list = append(list, admin.Setting{Key: v.Key, Value: v.Value, Origin: v.Origin})
	}
	return list
}
