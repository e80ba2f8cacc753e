package kernel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/catalog"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/kernel/network"
	"github.com/cellkernel/cellkernel/sdk"
)

// SwapPlugin implements [admin.Controller]: it exchanges a plugin for another
// one of its kind, or for another version of itself, while cells go on.
func (k *Kernel) SwapPlugin(ctx context.Context, from, to string, force bool) error {
	k.changing.Lock()
	defer k.changing.Unlock()
	g, err := k.genomeNow().Swap(from, to)
	if err != nil {
		return err
	}
	if now := k.genomeNow(); reflect.DeepEqual(g.Golgi, now.Golgi) && reflect.DeepEqual(g.Plugins, now.Plugins) {
		return sdk.Errorf(sdk.CodeInvalid, "swap %q for %q: that is what runs: nothing changes", from, to)
	}
	if problems := g.Validate(); len(problems) > 0 {
		return sdk.Errorf(sdk.CodeInvalid, "swap %q for %q: %s", from, to, problems[0])
	}
	if own, ok := exchanged(k.genomeNow(), g); ok {
		err = k.catalog.Replace(ctx, network.SpecOf(own), catalog.Swap{Commit: sameBook})
	} else if err = k.network.Sync(ctx, g, k.wantedCells(), force); err != nil {
		k.revertNetwork(ctx)
	}
	if err != nil {
		return uncovered(fmt.Errorf("swap %q for %q: %w", from, to, err))
	}
	k.differ(g, fmt.Sprintf("plugin %s runs in the place of %s", to, from))
	return nil
}

// uncovered tells callers of a change that failed for the nodes in use that
// force would help.
func uncovered(err error) error {
	if errors.Is(err, network.ErrUncovered) {
		return admin.WithCause(err, admin.CauseUncovered)
	}
	return err
}

// exchanged returns the plugin in which two genomes differ, if it is one that
// the network does without: a ledger or a billing.
func exchanged(from, to *genome.Genome) (genome.PluginRef, bool) {
	old := from.Selected()
	for _, r := range to.Selected() {
		same := slices.ContainsFunc(old, func(o genome.PluginRef) bool { return reflect.DeepEqual(o, r) })
		if !same && !r.Networked() {
			return r, true
		}
	}
	return genome.PluginRef{}, false
}

// sameBook lets a ledger be exchanged if the new process has the book of the
// old one: the same head, and so every record, and the same balances.
func sameBook(ctx context.Context, c catalog.Candidate) error {
	if c.Before == nil {
		return nil // no ledger, or nobody has opened it
	}
	l, err := c.Ledger()
	if err != nil {
		return err
	}
	if _, err := l.Open(ctx); err != nil {
		return err
	}
	head, sums, err := l.Balances(ctx)
	if err != nil {
		return err
	}
	zero := func(_ sdk.Account, v sdk.ATP) bool { return v == 0 }
	before := maps.Clone(c.Before.Balances)
	maps.DeleteFunc(before, zero)
	maps.DeleteFunc(sums, zero)
	if head != c.Before.Head || !maps.Equal(sums, before) {
		return sdk.Errorf(sdk.CodeUnavailable, "the new one has another book: it ends at record %d, the old one at %d", head.Seq, c.Before.Head.Seq)
	}
	return nil
}

// differ makes g what runs, and notes if the files say something else.
func (k *Kernel) differ(g *genome.Genome, how string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.genome = g
	if len(g.PluginsUnlike(k.file)) > 0 {
		how += ", which is not in the genome"
	}
	k.journal.Publish(admin.Event{Kind: admin.EventNote, Time: time.Now(), Text: how})
}

// Config implements [admin.Viewer].
func (k *Kernel) Config(context.Context) ([]admin.Setting, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	list := slices.Clone(k.origins)
	if now := k.genome.Golgi.Discovery; !slices.Equal(now, k.file.Golgi.Discovery) {
		for i, s := range list {
			if s.Key == "golgi.discovery" {
				list[i] = admin.Setting{Key: s.Key, Value: quoted(now), Origin: "plugin swap"}
			}
		}
	}
	return list, nil
}

// quoted is a list as TOML would write it.
func quoted(list []string) string {
	words := make([]string, len(list))
	for i, w := range list {
		words[i] = strconv.Quote(w)
	}
	return "[" + strings.Join(words, ", ") + "]"
}

// revertNetwork ends what a failed change has begun: what was in use before
// still is.
func (k *Kernel) revertNetwork(ctx context.Context) {
	if err := k.network.Sync(context.WithoutCancel(ctx), k.genomeNow(), k.wantedCells(), true); err != nil {
		k.note("take back a change of plugins: " + err.Error())
	}
}
