package metrics

import "github.com/prometheus/client_golang/prometheus"

// Peers counts who is known of the mesh, and what was heard.
type Peers struct {
	States        map[string]int    // nodes by state
	Announcements map[string]uint64 // by what became of them
	Discoveries   []Discovery
}

// A Discovery is one plugin that finds nodes.
type Discovery struct {
	Name       string
	Up, Synced bool
	Nodes      int
	Age        float64 // seconds since its last event; negative: none yet
}

var (
	peersKnown    = desc("peers", "Nodes that are known, by state.", "state")
	announcements = desc("announcements_total", "Announcements of other nodes, by what became of them.", "verdict")
	discoveryUp   = desc("discovery_up", "1 while the discovery works, else 0.", "discovery")
	discoverySync = desc("discovery_synced", "1 once the discovery has told all it knew when it came up.", "discovery")
	discoverySees = desc("discovery_nodes", "Nodes that the discovery sees.", "discovery")
	discoveryAge  = desc("discovery_last_event_seconds", "Age of the discovery's last event.", "discovery")
)

func ofPeers() []*prometheus.Desc {
	return []*prometheus.Desc{peersKnown, announcements, discoveryUp, discoverySync, discoverySees, discoveryAge}
}

// collectPeers shows the table of peers.
func collectPeers(ch chan<- prometheus.Metric, p Peers) {
	gauge := func(d *prometheus.Desc, v float64, label string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, label)
	}
	for state, n := range p.States {
		gauge(peersKnown, float64(n), state)
	}
	for verdict, n := range p.Announcements {
		ch <- prometheus.MustNewConstMetric(announcements, prometheus.CounterValue, float64(n), verdict)
	}
	for _, d := range p.Discoveries {
		gauge(discoveryUp, flag(d.Up), d.Name)
		gauge(discoverySync, flag(d.Synced), d.Name)
		gauge(discoverySees, float64(d.Nodes), d.Name)
		if d.Age >= 0 {
			gauge(discoveryAge, d.Age, d.Name)
		}
	}
}

func flag(on bool) float64 {
	if on {
		return 1
	}
	return 0
}
