package kernel

import (
	"fmt"
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
		meter = "procfs"
	}
	meter = k.gauge.Source(meter)
	found := ""
	if list := k.network.Discoveries(); len(list) > 0 {
		slices.Sort(list)
		found = ", finds others by " + strings.Join(list, " and ")
	}
	return fmt.Sprintf("node %s, mesh %s, %s%s, CPU metered by %s", k.genomeNow().Kernel.Node, k.mesh(), k.network.Reach(), found, meter)
}

// MetricPeers implements [metrics.Source].
func (k *Kernel) MetricPeers() metrics.Peers {
	<-k.started
	rows, sources := k.peers.Nodes(), k.peers.Sources()
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
