package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"

	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/plugins/billing-cgroup/cgroupbilling"
	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/lighthouse"
	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/lighthousediscovery"
	"github.com/cellkernel/cellkernel/plugins/discovery-multicast/multicastdiscovery"
	"github.com/cellkernel/cellkernel/plugins/ledger-json/jsonledger"
	"github.com/cellkernel/cellkernel/plugins/transport-quic/quictransport"
	"github.com/cellkernel/cellkernel/plugins/transport-uds/udstransport"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/memplugin"
)

// builtins returns the plugins inside this program, by kind and name. The
// "mem" ones keep everything in memory: they are for development.
func builtins() map[string]plugin.Plugin {
	return map[string]plugin.Plugin{
		"transport-quic":       quictransport.Plugin(),
		"transport-uds":        udstransport.Plugin(),
		"transport-mem":        memplugin.Transport(),
		"discovery-lighthouse": lighthousediscovery.Plugin(),
		"discovery-multicast":  multicastdiscovery.Plugin(),
		"discovery-mem":        memplugin.Discovery(),
		"ledger-json":          jsonledger.Plugin(),
		"ledger-mem":           memplugin.Ledger(),
		"billing-cgroup":       cgroupbilling.Plugin(),
		"billing-mem":          memplugin.Billing(),
	}
}

// sectionChecks returns what each bundled plugin finds wrong with its section
// of a genome.
func sectionChecks() map[string]func(map[string]any) []genome.Problem {
	checks := map[string]func(map[string]any) []genome.Problem{}
	for name, p := range builtins() {
		checks[name] = func(section map[string]any) []genome.Problem { return sectionProblems(p.Check(section)) }
	}
	return checks
}

// sectionProblems finds the keys in the error of a plugin's check. An element
// of an array is where the array is.
func sectionProblems(err error) []genome.Problem {
	var key *plugin.KeyError
	var many interface{ Unwrap() []error }
	switch {
	case err == nil:
		return nil
	case errors.As(err, &many):
		var list []genome.Problem
		for _, one := range many.Unwrap() {
			list = append(list, sectionProblems(one)...)
		}
		return list
	case errors.As(err, &key):
		path, _, _ := strings.Cut(key.Key, "[")
		return []genome.Problem{{Key: strings.Split(path, "."), Text: key.Text, Hint: key.Hint, Name: key.Unknown()}}
	}
	return []genome.Problem{{Text: err.Error()}}
}

// listenLighthouse opens the server that discovery-lighthouse asks.
func listenLighthouse(ctx context.Context, addr string, log *slog.Logger) (*lighthouse.Server, error) {
	return lighthouse.Listen(ctx, addr, lighthouse.Options{Log: log})
}

// probeLighthouse asks whether one answers.
func probeLighthouse(ctx context.Context, addr string) error { return lighthouse.Probe(ctx, addr) }

// The files of ledger-json are read without a kernel, too.
type (
	bookReport = jsonledger.Report
	bookDamage = jsonledger.DamageError
)

// walkBook checks a book of ledger-json and, unless saw is nil, shows its records.
func walkBook(ctx context.Context, dir *os.Root, saw func(sdk.Record) error) (bookReport, error) {
	return jsonledger.Walk(ctx, dir, saw)
}
