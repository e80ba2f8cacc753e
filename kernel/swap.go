package kernel

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/catalog"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/kernel/peers"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

const (
	coverWait = 12 * time.Second // for a new discovery to see all nodes in use: four beats
	lately    = 60 * time.Second // after its last link a node still counts as in use
	syncWait  = 5 * time.Second  // for a new version of a discovery to have its first view
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
	if problems := g.Validate(); len(problems) > 0 {
		return sdk.Errorf(sdk.CodeInvalid, "swap %q for %q: %s", from, to, problems[0])
	}
	if err := k.syncNetwork(ctx, g, k.wantedCells(), force); err != nil {
		k.revertNetwork(ctx)
		return fmt.Errorf("swap %q for %q: %w", from, to, err)
	}
	k.differ(g, fmt.Sprintf("plugin %s runs in the place of %s", to, from))
	return nil
}

// differ makes g what runs, and notes that the files say something else.
func (k *Kernel) differ(g *genome.Genome, how string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.genome = g
	k.differs = append(k.differs, how)
	k.journal.Publish(admin.Event{Kind: admin.EventNote, Time: time.Now(), Text: how + ", which is not in the genome"})
	k.origins = slices.Clone(k.origins)
	for i, s := range k.origins {
		if s.Key == "golgi.discovery" {
			k.origins[i] = admin.Setting{Key: s.Key, Value: fmt.Sprintf("%q", g.Golgi.Discovery), Origin: "plugin swap"}
		}
	}
}

// revertNetwork ends what a failed change has begun: what was in use before
// still is.
func (k *Kernel) revertNetwork(ctx context.Context) {
	if err := k.syncNetwork(context.WithoutCancel(ctx), k.genomeNow(), k.wantedCells(), true); err != nil {
		k.note("take back a change of plugins: " + err.Error())
	}
}

// awaitCover waits until all nodes in use are seen by other discoveries than
// the one that is to end.
func (k *Kernel) awaitCover(ctx context.Context, old string, others []genome.PluginRef) error {
	timer := time.NewTimer(coverWait)
	defer timer.Stop()
	for late := false; ; {
		missing := k.uncovered(func(source string) bool {
			return slices.ContainsFunc(others, func(r genome.PluginRef) bool { return r.Instance == source })
		})
		if len(missing) == 0 && k.synced(others) {
			return nil
		}
		if late && len(missing) == 0 {
			return sdk.Errorf(sdk.CodeUnavailable, "end discovery %q: no other one has a whole view after %s", old, coverWait)
		} else if late {
			return sdk.Errorf(sdk.CodeUnavailable, "end discovery %q: nodes in use that no other one sees after %s: %s", old, coverWait, strings.Join(missing, ", "))
		}
		select {
		case <-k.news:
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			late = true
		}
	}
}

// uncovered names the nodes in use that none of these sources sees. One that
// nobody sees, and to which no link lives, is lost whether this ends or not.
func (k *Kernel) uncovered(source func(string) bool) []string {
	used := k.golgi.Partners(lately)
	var missing []string
	for _, r := range k.peers.Nodes() {
		dead := r.State != peers.StateVerified && !r.Routable && r.Links == 0
		if r.Node == "" || !used[r.Node] || dead {
			continue
		}
		covered := false
		for _, o := range r.Origins {
			covered = covered || source(o.Source)
		}
		if !covered {
			missing = append(missing, fmt.Sprintf("%s (%s)", r.Name, r.Node.Short()))
		}
	}
	return missing
}

// synced reports whether any of these discoveries has a whole view.
func (k *Kernel) synced(refs []genome.PluginRef) bool {
	for _, s := range k.peers.Sources() {
		if s.Synced && s.Up && slices.ContainsFunc(refs, func(r genome.PluginRef) bool { return r.Instance == s.Name }) {
			return true
		}
	}
	return false
}

// replacePlugin exchanges the process of a plugin for one of another version
// or configuration.
func (k *Kernel) replacePlugin(ctx context.Context, spec catalog.Spec, force bool) error {
	var s catalog.Swap
	switch spec.Kind {
	case plugin.KindDiscovery:
		if !force {
			s.Commit = k.sees
		}
	case plugin.KindTransport:
		// Who does not know the new process when the old one leaves finds nobody.
		s.Commit = func(ctx context.Context, _ catalog.Candidate) error { return k.tellOthers(ctx) }
		s.Drain = func(ctx context.Context) { k.golgi.Release(ctx, spec.Name) }
	}
	return k.catalog.Replace(ctx, spec, s)
}

// sees waits until a candidate has a view in which no node in use is missing.
func (k *Kernel) sees(ctx context.Context, c catalog.Candidate) error {
	d, err := c.Discovery()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, syncWait)
	defer cancel()
	missing := k.golgi.Partners(lately)
	o, synced := newOpener(k, ""), false
	err = d.Watch(ctx, func(e sdk.Event) {
		switch e.Kind {
		case sdk.EventSynced:
			synced = true
		case sdk.EventSeen:
			if a, ok := o.open(e); ok {
				delete(missing, a.Node)
			}
		}
		if synced && len(missing) == 0 {
			cancel()
		}
	})
	switch {
	case synced && len(missing) == 0:
		return nil
	case err != nil:
		return err
	case !synced:
		return sdk.Errorf(sdk.CodeUnavailable, "the new one has no view after %s", syncWait)
	}
	return sdk.Errorf(sdk.CodeUnavailable, "the new one does not see nodes in use after %s: %s", syncWait, slices.Sorted(maps.Keys(missing)))
}
