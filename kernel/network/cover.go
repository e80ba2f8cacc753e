package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

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

// ErrUncovered is found in the errors of changes that would leave nodes in use
// unseen. A change with force is made nevertheless.
var ErrUncovered = errors.New("nodes in use are not seen by another discovery")

// uncovered is an unavailable error in which [ErrUncovered] can be found.
type uncovered struct{ cause error }

func (e uncovered) Error() string   { return e.cause.Error() }
func (e uncovered) Unwrap() []error { return []error{e.cause, ErrUncovered} }

func errUncovered(format string, args ...any) error {
	return uncovered{sdk.Errorf(sdk.CodeUnavailable, format, args...)}
}

// awaitCover waits until all nodes in use are seen by other discoveries than
// the one that is to end.
func (n *Network) awaitCover(ctx context.Context, old string, others []genome.PluginRef) error {
	timer := time.NewTimer(coverWait)
	defer timer.Stop()
	for late := false; ; {
		missing := n.uncovered(func(source string) bool {
			return slices.ContainsFunc(others, func(r genome.PluginRef) bool { return r.Instance == source })
		})
		if len(missing) == 0 && n.synced(others) {
			return nil
		}
		if late && len(missing) == 0 {
			return errUncovered("end discovery %q: no other one has a whole view after %s", old, coverWait)
		} else if late {
			return errUncovered("end discovery %q: nodes in use that no other one sees after %s: %s", old, coverWait, strings.Join(missing, ", "))
		}
		select {
		case <-n.news:
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			late = true
		}
	}
}

// uncovered names the nodes in use that none of these sources sees. One that
// nobody sees, and to which no link lives, is lost whether this ends or not.
func (n *Network) uncovered(source func(string) bool) []string {
	used := n.opt.Golgi.Partners(lately)
	var missing []string
	for _, r := range n.opt.Peers.Nodes() {
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
func (n *Network) synced(refs []genome.PluginRef) bool {
	for _, s := range n.opt.Peers.Sources() {
		if s.Synced && s.Up && slices.ContainsFunc(refs, func(r genome.PluginRef) bool { return r.Instance == s.Name }) {
			return true
		}
	}
	return false
}

// replacePlugin exchanges the process of a plugin for one of another version
// or configuration.
func (n *Network) replacePlugin(ctx context.Context, spec catalog.Spec, force bool) error {
	var s catalog.Swap
	switch spec.Kind {
	case plugin.KindDiscovery:
		if !force {
			s.Commit = n.sees
		}
	case plugin.KindTransport:
		// Who does not know the new process when the old one leaves finds nobody.
		s.Commit = func(ctx context.Context, _ catalog.Candidate) error { return n.tellOthers(ctx) }
		s.Drain = func(ctx context.Context) { n.opt.Golgi.Release(ctx, spec.Name) }
	}
	return n.opt.Catalog.Replace(ctx, spec, s)
}

// sees waits until a candidate has a view in which no node in use is missing.
func (n *Network) sees(ctx context.Context, c catalog.Candidate) error {
	d, err := c.Discovery()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, syncWait)
	defer cancel()
	missing := n.opt.Golgi.Partners(lately)
	o, synced := newOpener(n, ""), false
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
		return errUncovered("the new one has no view after %s", syncWait)
	}
	return errUncovered("the new one does not see nodes in use after %s: %s", syncWait, slices.Sorted(maps.Keys(missing)))
}
