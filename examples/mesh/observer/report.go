package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/cellkernel/cellkernel/examples/bench/result"
)

const (
	minRate   = 10_000 // messages/s
	minReach  = 10     // others
	maxOneWay = 5 * time.Millisecond
	minShare  = 0.5 // of an even share, as 1 % is of 50 replicas
	maxShare  = 2.0 // as 4 % is
	messageB  = 20  // bytes of a message's fields
)

func micros(h *hdrhistogram.Histogram, percentile float64) float64 {
	return float64(h.ValueAtQuantile(percentile)) / 1000
}

// sums are the totals over all replicas.
type sums struct {
	sent, failed, received, self uint64
	reach                        int // the least any replica reached
}

func (m *mesh) sums() sums {
	t := sums{reach: len(m.stories)}
	for _, s := range m.stories {
		t.sent += s.Sent
		t.failed += s.Failed
		t.received += s.Received
		t.self += s.FromSelf
		t.reach = min(t.reach, len(s.Reached))
	}
	return t
}

func (m *mesh) rate() float64 { return float64(m.sums().received) / m.time.Seconds() }

func (m *mesh) row(o options) result.Row {
	t := m.sums()
	return result.Row{
		Name: "mesh-one-way", System: result.Cellkernel, PayloadBytes: messageB, InFlight: o.replicas,
		Calls: t.sent, Errors: t.failed, CallsPerS: m.rate(),
		P50US: micros(m.latency, 50), P99US: micros(m.latency, 99), P999US: micros(m.latency, 99.9),
	}
}

func (m *mesh) claims() []result.Claim {
	t := m.sums()
	p99 := micros(m.latency, 99)
	return []result.Claim{
		{
			Claim: "messages a second", Bound: fmt.Sprintf(">= %d", minRate),
			Value: fmt.Sprintf("%.0f", m.rate()), OK: m.rate() >= minRate,
		},
		{
			Claim: "received by sent", Bound: "equal, none failed",
			Value: fmt.Sprintf("%d / %d", t.received, t.sent), OK: t.received == t.sent && t.sent > 0 && t.failed == 0,
		},
		{
			Claim: "one-way latency, 99 of 100 messages", Bound: fmt.Sprintf("< %d us", maxOneWay.Microseconds()),
			Value: fmt.Sprintf("%.0f us", p99), OK: p99 < float64(maxOneWay.Microseconds()),
		},
		{
			Claim: "others that every replica reached", Bound: fmt.Sprintf(">= %d", min(minReach, len(m.stories)-1)),
			Value: fmt.Sprint(t.reach), OK: t.reach >= min(minReach, len(m.stories)-1),
		},
		{
			Claim: "messages to oneself", Bound: "0",
			Value: fmt.Sprint(t.self), OK: t.self == 0,
		},
	}
}

func (p *plain) row(o options) result.Row {
	return result.Row{
		Name: "plain-calls", System: result.Cellkernel, InFlight: 1,
		Calls: uint64(o.calls), Errors: p.errors, CallsPerS: float64(o.calls) / p.elapsed.Seconds(),
		P50US: micros(p.latency, 50), P99US: micros(p.latency, 99), P999US: micros(p.latency, 99.9),
	}
}

// shares returns the smallest and the largest share of the calls.
func (p *plain) shares(o options) (least, most float64) {
	counts := slices.Sorted(maps.Values(p.by))
	if len(counts) == 0 {
		return 0, 0
	}
	if len(counts) == o.replicas {
		least = float64(counts[0]) / float64(o.calls)
	}
	return least, float64(counts[len(counts)-1]) / float64(o.calls)
}

func (p *plain) claims(o options) []result.Claim {
	least, most := p.shares(o)
	low, high := minShare/float64(o.replicas), maxShare/float64(o.replicas)
	return []result.Claim{{
		Claim: fmt.Sprintf("each replica's share of %d plain calls", o.calls),
		Bound: fmt.Sprintf("%.1f-%.1f %%", 100*low, 100*high), Value: fmt.Sprintf("%.2f-%.2f %%", 100*least, 100*most),
		OK: least >= low && most <= high && p.errors == 0,
	}}
}

// show prints everything for people.
func show(w io.Writer, r *result.Report, m *mesh, p *plain) error {
	var b strings.Builder
	if err := r.Table(&b); err != nil {
		return err
	}
	b.WriteString("\nONE-WAY LATENCY, as the receivers timed it\n")
	bars(&b, m.latency)
	b.WriteString("\nREPLICAS  SENT          RECEIVED      REACHED  PLAIN CALLS\n")
	spread(&b, m, p)
	_, err := io.WriteString(w, b.String())
	return err
}

// bars draws the histogram in powers of two.
func bars(w io.Writer, h *hdrhistogram.Histogram) {
	counts := map[int]int64{}
	low, high, most := 63, 0, int64(1)
	for _, bar := range h.Distribution() {
		if bar.Count == 0 {
			continue
		}
		i := 0
		for v := bar.To / 1000; v > 1; v >>= 1 {
			i++
		}
		counts[i] += bar.Count
		low, high, most = min(low, i), max(high, i), max(most, counts[i])
	}
	for i := low; i <= high; i++ {
		fmt.Fprintf(w, "%8d - %-8d us %9d  %s\n", int64(1)<<i&^1, int64(2)<<i, counts[i], strings.Repeat("#", int(60*counts[i]/most)))
	}
}

// spread says how far replicas are from each other.
func spread(w io.Writer, m *mesh, p *plain) {
	var sent, received, reached, calls []int
	for _, s := range m.stories {
		sent, received = append(sent, int(s.Sent)), append(received, int(s.Received))
		reached, calls = append(reached, len(s.Reached)), append(calls, p.by[s.Replica])
	}
	for _, v := range [][]int{sent, received, reached, calls} {
		slices.Sort(v)
	}
	for _, row := range []struct {
		name string
		at   int
	}{{"least", 0}, {"median", len(sent) / 2}, {"most", len(sent) - 1}} {
		fmt.Fprintf(w, "%-8s  %-12d  %-12d  %-7d  %d\n", row.name, sent[row.at], received[row.at], reached[row.at], calls[row.at])
	}
}
