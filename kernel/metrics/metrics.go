// Package metrics shows a kernel to Prometheus. Everything is read when it is
// scraped: between scrapes metrics cost nothing.
package metrics

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// maxSeries bounds the calls series of one scrape: names of callers come from
// other machines.
const maxSeries = 10_000

// A Process is one process of the node.
type Process struct {
	Kind, Name, State string
	Replica           int
	Restarts          int
	CPU               float64 // seconds
	RSS               int64   // bytes
}

// Calls counts what one cell answered another since the kernel started, over
// the links that are open.
type Calls struct {
	From, To      string
	Links         int
	Calls, Errors uint64
	Handler       float64 // seconds in handlers
	In, Out       uint64  // bytes
}

// A Charge is what one caller has used of one cell since the kernel started.
type Charge struct {
	Node, From, To string  // Node is empty for this one, From for what nobody called for
	CPU            float64 // seconds
}

// A Source is asked at every scrape. It must not block for long.
type Source interface {
	MetricProcesses() []Process
	MetricCalls() []Calls
	MetricCharges() []Charge
	MetricPeers() Peers
}

// Handler serves the metrics of s, and of this process.
func Handler(s Source) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collector{s})
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

var (
	ofProcess = []string{"kind", "name", "replica"}
	ofCalls   = []string{"from", "to"}

	up       = desc("process_ready", "1 while the process is ready, else 0.", ofProcess...)
	restarts = desc("process_restarts_total", "Starts because the process had ended, unasked.", ofProcess...)
	cpu      = desc("process_cpu_seconds_total", "CPU time of the current life of a process.", ofProcess...)
	rss      = desc("process_resident_bytes", "Resident memory.", ofProcess...)
	links    = desc("links_open", "Open links from one cell to another.", ofCalls...)
	calls    = desc("calls_total", "Calls answered over open links.", ofCalls...)
	errs     = desc("call_errors_total", "Of them, those that failed.", ofCalls...)
	handler  = desc("handler_seconds_total", "Time spent in handlers.", ofCalls...)
	in       = desc("link_received_bytes_total", "Bytes the answering cell received.", ofCalls...)
	charged  = desc("metered_cpu_seconds_total", "CPU time of a cell, by who called it; without a caller, its own.", "node", "from", "to")
	out      = desc("link_sent_bytes_total", "Bytes the answering cell sent.", ofCalls...)
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("cellkernel_"+name, help, labels, nil)
}

// collector implements prometheus.Collector over a Source.
type collector struct{ s Source }

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range append(ofPeers(), up, restarts, cpu, rss, links, calls, errs, handler, in, out, charged) {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	collectPeers(ch, c.s.MetricPeers())
	for _, p := range c.s.MetricProcesses() {
		id := []string{p.Kind, p.Name, replica(p.Replica)}
		ch <- prometheus.MustNewConstMetric(up, prometheus.GaugeValue, flag(p.State == "ready"), id...)
		ch <- prometheus.MustNewConstMetric(restarts, prometheus.CounterValue, float64(p.Restarts), id...)
		ch <- prometheus.MustNewConstMetric(cpu, prometheus.CounterValue, p.CPU, id...)
		ch <- prometheus.MustNewConstMetric(rss, prometheus.GaugeValue, float64(p.RSS), id...)
	}
	for _, k := range c.s.MetricCharges() {
		ch <- prometheus.MustNewConstMetric(charged, prometheus.CounterValue, k.CPU, k.Node, k.From, k.To)
	}
	for i, k := range c.s.MetricCalls() {
		if i == maxSeries {
			return
		}
		id := []string{k.From, k.To}
		ch <- prometheus.MustNewConstMetric(links, prometheus.GaugeValue, float64(k.Links), id...)
		ch <- prometheus.MustNewConstMetric(calls, prometheus.CounterValue, float64(k.Calls), id...)
		ch <- prometheus.MustNewConstMetric(errs, prometheus.CounterValue, float64(k.Errors), id...)
		ch <- prometheus.MustNewConstMetric(handler, prometheus.CounterValue, k.Handler, id...)
		ch <- prometheus.MustNewConstMetric(in, prometheus.CounterValue, float64(k.In), id...)
		ch <- prometheus.MustNewConstMetric(out, prometheus.CounterValue, float64(k.Out), id...)
	}
}

func replica(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}
