package metrics_test

import (
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/kernel/metrics"
)

type source struct{}

func (source) MetricProcesses() []metrics.Process {
	return []metrics.Process{
		{Kind: "cell", Name: "worker", State: "ready", Replica: 2, Restarts: 3, CPU: 1.5, RSS: 4096},
		{Kind: "plugin", Name: "transport-uds", State: "backoff"},
	}
}

func (source) MetricCalls() []metrics.Calls {
	return []metrics.Calls{{From: "shop", To: "store", Links: 4, Calls: 9, Errors: 1, Handler: 0.25, In: 10, Out: 20}}
}

func (source) MetricCharges() []metrics.Charge {
	return []metrics.Charge{{Node: "k7q2", From: "shop", To: "store", CPU: 1.25}, {To: "store", CPU: 0.5}}
}

func (source) MetricPeers() metrics.Peers {
	return metrics.Peers{
		States: map[string]int{"verified": 2, "foreign": 0}, Announcements: map[string]uint64{"refreshed": 7, "replayed": 3},
		Discoveries: []metrics.Discovery{{Name: "lighthouse", Up: true, Nodes: 2, Age: 1.5}, {Name: "multicast", Synced: true, Age: -1}},
	}
}

func TestHandlerShowsEveryProcessAndFlow(t *testing.T) {
	w := httptest.NewRecorder()
	metrics.Handler(source{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	b, _ := io.ReadAll(w.Body)
	for _, want := range []string{
		`cellkernel_process_ready{kind="cell",name="worker",replica="2"} 1`,
		`cellkernel_process_ready{kind="plugin",name="transport-uds",replica=""} 0`,
		`cellkernel_process_restarts_total{kind="cell",name="worker",replica="2"} 3`,
		`cellkernel_process_cpu_seconds_total{kind="cell",name="worker",replica="2"} 1.5`,
		`cellkernel_process_resident_bytes{kind="cell",name="worker",replica="2"} 4096`,
		`cellkernel_links_open{from="shop",to="store"} 4`,
		`cellkernel_calls_total{from="shop",to="store"} 9`,
		`cellkernel_call_errors_total{from="shop",to="store"} 1`,
		`cellkernel_handler_seconds_total{from="shop",to="store"} 0.25`,
		`cellkernel_link_received_bytes_total{from="shop",to="store"} 10`,
		`cellkernel_link_sent_bytes_total{from="shop",to="store"} 20`,
		`cellkernel_metered_cpu_seconds_total{from="shop",node="k7q2",to="store"} 1.25`,
		`cellkernel_metered_cpu_seconds_total{from="",node="",to="store"} 0.5`,
		`cellkernel_peers{state="verified"} 2`,
		`cellkernel_peers{state="foreign"} 0`,
		`cellkernel_announcements_total{verdict="replayed"} 3`,
		`cellkernel_discovery_up{discovery="lighthouse"} 1`,
		`cellkernel_discovery_up{discovery="multicast"} 0`,
		`cellkernel_discovery_synced{discovery="multicast"} 1`,
		`cellkernel_discovery_nodes{discovery="lighthouse"} 2`,
		`cellkernel_discovery_last_event_seconds{discovery="lighthouse"} 1.5`,
		`go_goroutines `,
	} {
		if !strings.Contains(string(b), "\n"+want) {
			t.Errorf("no line %s", want)
		}
	}
	if strings.Contains(string(b), `last_event_seconds{discovery="multicast"}`) {
		t.Error("an age of what never was")
	}
}
