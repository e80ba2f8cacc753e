package lighthouse

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Stats counts since the start what a server did.
type Stats struct {
	Received, ReceivedBytes uint64 // datagrams, and the bytes in them
	Sent, SentBytes         uint64
	Cookies                 uint64 // sent
	Strangers               uint64 // datagrams with a cookie that is not or no longer good
	Malformed               uint64
	Forged                  uint64 // registrations whose signature is wrong
	Stale                   uint64 // registrations older than what is there: late, or replayed
	Limited                 uint64 // datagrams beyond a rate
	Refused                 uint64 // registrations and subscriptions beyond a limit
	Lapsed                  uint64 // leases that ended without a goodbye
	Unsent                  uint64 // answers that the system did not take

	Nodes, Envelopes, Watchers, Meshes int // at present
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, t := s.stats, s.table
	st.Nodes, st.Envelopes, st.Watchers, st.Meshes = t.live(), t.nodes.all.envelopes, len(t.subs), len(t.groups)
	return st
}

// Metrics shows the counters to Prometheus.
func (s *Server) Metrics() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collector{s})
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// A metric is one number of Stats.
type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*Stats) float64
}

func counter(name, help string, value func(*Stats) uint64) metric {
	return metric{desc(name+"_total", help), prometheus.CounterValue, func(s *Stats) float64 { return float64(value(s)) }}
}

func gauge(name, help string, value func(*Stats) int) metric {
	return metric{desc(name, help), prometheus.GaugeValue, func(s *Stats) float64 { return float64(value(s)) }}
}

func desc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("cellkernel_lighthouse_"+name, help, nil, nil)
}

func metrics() []metric {
	return []metric{
		counter("received", "Datagrams received.", func(s *Stats) uint64 { return s.Received }),
		counter("received_bytes", "Bytes in them.", func(s *Stats) uint64 { return s.ReceivedBytes }),
		counter("sent", "Datagrams sent.", func(s *Stats) uint64 { return s.Sent }),
		counter("sent_bytes", "Bytes in them.", func(s *Stats) uint64 { return s.SentBytes }),
		counter("cookies", "Cookies sent.", func(s *Stats) uint64 { return s.Cookies }),
		counter("strangers", "Datagrams without a good cookie.", func(s *Stats) uint64 { return s.Strangers }),
		counter("malformed", "Datagrams that are none of the protocol.", func(s *Stats) uint64 { return s.Malformed }),
		counter("forged", "Registrations with a wrong signature.", func(s *Stats) uint64 { return s.Forged }),
		counter("stale", "Registrations older than the one there.", func(s *Stats) uint64 { return s.Stale }),
		counter("limited", "Datagrams beyond a rate.", func(s *Stats) uint64 { return s.Limited }),
		counter("refused", "Registrations and subscriptions beyond a limit.", func(s *Stats) uint64 { return s.Refused }),
		counter("lapsed", "Leases that ended without a goodbye.", func(s *Stats) uint64 { return s.Lapsed }),
		counter("unsent", "Answers that the system did not take.", func(s *Stats) uint64 { return s.Unsent }),
		gauge("nodes", "Nodes registered.", func(s *Stats) int { return s.Nodes }),
		gauge("envelopes", "Envelopes they announce.", func(s *Stats) int { return s.Envelopes }),
		gauge("watchers", "Nodes that watch.", func(s *Stats) int { return s.Watchers }),
		gauge("meshes", "Meshes that have either.", func(s *Stats) int { return s.Meshes }),
	}
}

// collector implements prometheus.Collector.
type collector struct{ s *Server }

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range metrics() {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	st := c.s.Stats()
	for _, m := range metrics() {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(&st))
	}
}
