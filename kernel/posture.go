package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cellkernel/cellkernel/kernel/metrics"
	"github.com/cellkernel/cellkernel/kernel/peers"
)

// posture says in one line who this is, who can reach it from where, how it
// finds others, and how it meters.
func (k *Kernel) posture() string {
	meter := "cgroup2"
	if dir, _ := k.spawner.Cgroup(); dir == "" {
		meter = "/proc"
	}
	found := ""
	if list := k.discoveries(); len(list) > 0 {
		slices.Sort(list)
		found = ", finds others by " + strings.Join(list, " and ")
	}
	return fmt.Sprintf("node %s, mesh %s, %s%s, CPU metered by %s", k.genomeNow().Kernel.Node, k.mesh(), reachable(k.openDoors()), found, meter)
}

// reachable says from where the doors can be reached.
func reachable(doors []door) string {
	var near, far []string
	for _, d := range doors {
		if at, err := netip.ParseAddrPort(d.ln.Addr().String()); err == nil && at.Addr().IsLoopback() {
			near = append(near, doorText(d))
		} else {
			far = append(far, doorText(d))
		}
	}
	switch {
	case len(far) > 0:
		return "reachable by members of the mesh at " + strings.Join(append(far, near...), " and ")
	case len(near) > 0:
		return "reachable from this machine only, at " + strings.Join(near, " and ")
	}
	return "reachable from this machine only"
}

// MetricPeers implements [metrics.Source].
func (k *Kernel) MetricPeers() metrics.Peers {
	rows, sources := k.peersNow()
	counts := k.peers.Counts()
	m := metrics.Peers{States: map[string]int{}, Announcements: map[string]uint64{"foreign": counts.Foreign}}
	for _, s := range []peers.State{peers.StateVerified, peers.StateStale, peers.StateIncompatible, peers.StateGone, peers.StateForeign} {
		m.States[string(s)] = 0 // a series that is missing says nothing
	}
	for _, r := range rows {
		m.States[string(r.State)]++
	}
	for v, n := range counts.Verdicts {
		m.Announcements[v.String()] = n
	}
	for _, s := range sources {
		m.Discoveries = append(m.Discoveries, metrics.Discovery{Name: s.Name, Up: s.Up, Synced: s.Synced, Nodes: s.Nodes, Age: s.Last.Seconds()})
	}
	return m
}
