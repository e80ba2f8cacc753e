package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
	"github.com/cellkernel/cellkernel/examples/acceptance/probe"
)

const (
	levelWithin = 20 * time.Second // until what was closed is gone everywhere
	levelLooks  = 5                // of which the least is what is really held
	maxScrapes  = 500              // until the kernel has collected garbage
)

// A holding is what one process holds.
type holding struct {
	fds, goroutines int
	heap            int64 // bytes, after a collection
}

// A level is what all processes hold, by name.
type level map[string]holding

// least is the lower of two looks, for each number: ends travel.
func (v level) least(w level) level {
	r := level{}
	for name, a := range v {
		b := w[name]
		r[name] = holding{min(a.fds, b.fds), min(a.goroutines, b.goroutines), min(a.heap, b.heap)}
	}
	return r
}

// more is what v holds more than before: the most of any process.
func (v level) more(before level) holding {
	var m holding
	for name, a := range v {
		b := before[name]
		m = holding{max(m.fds, a.fds-b.fds), max(m.goroutines, a.goroutines-b.goroutines), max(m.heap, a.heap-b.heap)}
	}
	return m
}

// describe lists one number of each process, before and after.
func (v level) describe(before level, of func(holding) string) string {
	var parts []string
	for _, name := range watchedProcesses {
		parts = append(parts, fmt.Sprintf("%s %s, then %s", name, of(before[name]), of(v[name])))
	}
	return strings.Join(parts, "; ")
}

// watchedProcesses are those that links pass: see watchedGenome.
var watchedProcesses = []string{"kernel", "transport-uds", "target", "load"}

// A scales measures levels of one kernel.
type scales struct {
	k    *lab.Kernel
	pids map[string]int
}

func newScales(ctx context.Context, k *lab.Kernel) (*scales, error) {
	list, err := k.PS(ctx)
	if err != nil {
		return nil, err
	}
	s := &scales{k: k, pids: map[string]int{}}
	for _, p := range list {
		s.pids[p.Name] = p.PID
	}
	for _, name := range watchedProcesses {
		if s.pids[name] == 0 {
			return nil, fmt.Errorf("watch %s: ps does not list it", name)
		}
	}
	return s, nil
}

// look measures once.
func (s *scales) look(ctx context.Context) (level, error) {
	v := level{}
	for _, name := range watchedProcesses {
		x, err := s.vitals(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("measure %s: %w", name, err)
		}
		v[name] = holding{goroutines: int(x.Goroutines), heap: int64(x.HeapBytes)}
	}
	for name, h := range v {
		n, err := lab.Descriptors(s.pids[name])
		if err != nil {
			return nil, err
		}
		h.fds = n
		v[name] = h
	}
	return v, nil
}

// rest measures until nothing is held more than before, if there is a before,
// or until it was patient enough.
func (s *scales) rest(ctx context.Context, before level) (level, error) {
	end := time.Now().Add(levelWithin)
	v, err := s.look(ctx)
	for i := 1; err == nil; i++ {
		m := v.more(before)
		calm := before != nil && m.fds <= 0 && m.goroutines <= 0 && m.heap <= maxHeap
		if calm || i >= levelLooks && before == nil || time.Now().After(end) {
			return v, nil
		}
		if err = pause(ctx, 200*time.Millisecond); err != nil {
			break
		}
		var w level
		if w, err = s.look(ctx); err == nil {
			v = v.least(w)
		}
	}
	return nil, err
}

// vitals asks a process, each in its own way.
func (s *scales) vitals(ctx context.Context, name string) (*probe.Vitals, error) {
	v := new(probe.Vitals)
	switch name {
	case "kernel":
		return s.kernel(ctx)
	case "transport-uds":
		c, err := new(net.Dialer).DialContext(ctx, "unix", probe.VitalsOf(s.pids[name]))
		if err != nil {
			return nil, err
		}
		defer c.Close()
		return v, json.NewDecoder(c).Decode(v)
	}
	return v, s.k.Call(ctx, name+".Vitals", probe.None{}, v)
}

// kernel reads the kernel's metrics until it has collected its garbage between
// two of them.
func (s *scales) kernel(ctx context.Context) (*probe.Vitals, error) {
	first := -1.0
	for range maxScrapes {
		m, err := s.k.Metrics(ctx)
		if err != nil {
			return nil, err
		}
		collections := m["go_gc_duration_seconds_count"]
		if first >= 0 && collections > first {
			return &probe.Vitals{Goroutines: uint32(m["go_goroutines"]), HeapBytes: uint64(m["go_memstats_heap_alloc_bytes"])}, nil
		}
		first = collections
	}
	return nil, fmt.Errorf("no garbage was collected while %d metrics were read", maxScrapes)
}
