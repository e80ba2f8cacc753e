package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/examples/bench/result"
)

// What a call does.
type kind uint32

const (
	echo kind = iota // send the payload back
	work             // look at every byte of it
	burn             // use CPU
)

// A workload is one line of the table.
type workload struct {
	name     string
	kind     kind
	payload  int // bytes
	inFlight int
	calls    int // 0: rounds of a fixed time
}

const (
	burnMicros = 1000            // CPU of one burn call
	longest    = 2 * time.Second // of the other systems where the number of calls is fixed
)

// originals are the three tests of the benchmark that came with Cell, on four
// workers. The 64 KiB are 65 536 bytes of sevens there, too.
func originals() []workload {
	return []workload{
		{name: "original-latency", kind: work, payload: 1, inFlight: 1, calls: 10_000},
		{name: "original-throughput", kind: work, payload: 1, inFlight: 8, calls: 800_000},
		{name: "original-bandwidth", kind: work, payload: 64 << 10, inFlight: 8, calls: 80_000},
	}
}

// echoes are compared with the limits that others set: one replica, one server.
func echoes() []workload {
	var list []workload
	for _, n := range []int{1, 8, 64, 256} {
		list = append(list, workload{name: "echo-64B", kind: echo, payload: 64, inFlight: n})
	}
	return append(list, workload{name: "echo-64KiB", kind: echo, payload: 64 << 10, inFlight: 8})
}

// A contender is a server under a name. Of two contenders of one system the
// faster counts.
type contender struct {
	system string
	server server
}

type bench struct {
	options
	one, four *cells
	base      *baselines
	far       *farBase // nil: all is on this machine
	burns     []burned
}

// run measures all workloads. Between machines that is the echoes: there are
// no four workers, and burning takes as long there as here.
func (b *bench) run(ctx context.Context) ([]result.Row, error) {
	if b.far != nil {
		return b.echoes(ctx)
	}
	var rows []result.Row
	for _, w := range b.wanted(originals()) {
		more, err := b.compare(ctx, w, b.four, 1)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	for _, c := range []*cells{b.one, b.four} {
		if !strings.Contains("burn", b.only) {
			break
		}
		row, err := b.burn(ctx, c)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	more, err := b.echoes(ctx)
	return append(rows, more...), err
}

func (b *bench) echoes(ctx context.Context) ([]result.Row, error) {
	var rows []result.Row
	for _, w := range b.wanted(echoes()) {
		more, err := b.compare(ctx, w, b.one, b.roundsOf(w))
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

// wanted leaves the workloads that --only names.
func (b *bench) wanted(list []workload) []workload {
	return slices.DeleteFunc(list, func(w workload) bool {
		return !strings.Contains(fmt.Sprintf("%s/%d", w.name, w.inFlight), b.only)
	})
}

// contenders lists who takes part: one connection for all callers and one for
// each are the same thing where there is one caller.
func (b *bench) contenders(w workload, ours server) []contender {
	if b.far != nil {
		return b.far.contenders(w, ours)
	}
	list := []contender{
		{result.Cellkernel, ours},
		{result.Raw, b.base.raw},
		{result.GRPC, b.base.shared},
	}
	if w.inFlight > 1 {
		list = append(list, contender{result.GRPC, b.base.each})
	}
	return list
}

// compare measures a workload on all systems, in rounds that alternate and of
// which each begins with another system.
func (b *bench) compare(ctx context.Context, w workload, ours server, rounds int) ([]result.Row, error) {
	list := slices.DeleteFunc(b.contenders(w, ours), func(c contender) bool { return !strings.Contains(c.system, b.system) })
	if len(list) == 0 {
		return nil, fmt.Errorf("measure %s/%d: no system's name contains %q", w.name, w.inFlight, b.system)
	}
	samples := make([][]*sample, len(list))
	for r := range rounds {
		for i := range list {
			i = (i + r) % len(list)
			s, err := checked(ctx, list[i].server, w, b.limit(w, list[i].system))
			if err != nil {
				return nil, fmt.Errorf("measure %s/%d on %s: %w", w.name, w.inFlight, list[i].system, err)
			}
			samples[i] = append(samples[i], s)
		}
	}
	best := map[string]result.Row{}
	for i, c := range list {
		row := median(w, c.system, samples[i])
		if row.CallsPerS > best[c.system].CallsPerS || best[c.system].System == "" {
			best[c.system] = row
		}
	}
	var rows []result.Row
	for _, row := range best {
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(x, y result.Row) int { return cmp.Compare(result.Role(x.System), result.Role(y.System)) })
	b.progress(rows[0])
	return rows, nil
}

// alone reports whether one caller waits for each reply. Its latency has two
// modes, as a wake stays on its core or crosses to another, and a round tends
// to keep the mode it began with: more and shorter rounds see both.
func (b *bench) alone(w workload) bool { return w.inFlight == 1 && !b.quick }

func (b *bench) roundsOf(w workload) int {
	if b.alone(w) {
		return 3 * b.rounds
	}
	return b.rounds
}

func (b *bench) roundOf(w workload) time.Duration {
	if b.alone(w) {
		return b.round * 2 / 5
	}
	return b.round
}

// limit returns how long a round lasts.
func (b *bench) limit(w workload, system string) limit {
	switch {
	case w.calls == 0:
		return limit{time: b.roundOf(w)}
	case b.quick:
		return limit{calls: max(1, w.calls/w.inFlight/200), time: time.Minute}
	case system == result.Cellkernel:
		return limit{calls: w.calls / w.inFlight, time: time.Minute}
	}
	return limit{calls: w.calls / w.inFlight, time: longest}
}

// progress tells on standard error that it goes on.
func (b *bench) progress(row result.Row) {
	fmt.Fprintf(os.Stderr, "%s: %.0f calls/s, p50 %.1f us\n", row.Key(), row.CallsPerS, row.P50US)
}
