// Package meter turns what was measured into what is owed. A billing says how
// much CPU a process has used since it began; the process itself says which
// callers its handlers have worked for. Both are absolute counters, read at
// different moments, and either may be late, missing for a while, or there
// twice. The package splits the one by the other.
//
// What is split is always what was measured and never more: the sum of all
// charges of a process, those to its own node included, is at most its last
// reading. What a process did while no handler ran is its own node's, which is
// a [Charge] without a caller.
//
// Nothing here reads a clock or a file: the package is arithmetic.
package meter

import (
	"math/bits"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// A Charge is what one caller used of one cell since the last charge.
type Charge struct {
	Node   sdk.NodeID   // of the caller; empty for this node
	From   sdk.CellName // who called; empty for what nobody called for
	Cell   sdk.CellName // who answered
	Method string       // "Service.Method"; "…" for those beyond what is counted apart
	Calls  uint64       // that have ended
	CPU    sdk.ATP      // microseconds
	Source string       // what measured it, as in [sdk.Usage], and how it was split: "cgroup2/time"
}

// Counters are what a process says of itself. All are absolute.
type Counters struct {
	CPU   time.Duration // of the process by its own account, at the moment of the counters
	Split string        // how the weights came about: "time" or "samples"
	Lines []Line        // those that have changed suffice
}

// A Line is one method of one link. Its weight is an estimate of the CPU that
// handlers used for it: lines are charged in proportion.
type Line struct {
	Link   uint64
	Node   sdk.NodeID
	From   sdk.CellName
	Method string
	Calls  uint64
	Weight time.Duration
	Closed bool // the link has ended: this is the line's last
}

// Limits of what is remembered.
const (
	maxLines = 1 << 16 // of one process
	maxKeys  = 1 << 14 // callers and methods with a fraction of a microsecond
)

// A Meter collects readings and counters. The zero Meter is ready. It is not
// safe for concurrent use.
type Meter struct {
	replicas map[sdk.WorkloadID]*replica
	owed     map[key]*debt
}

// A replica is one process.
type replica struct {
	cell    sdk.CellName
	reading time.Duration // the highest so far
	source  string
	pool    time.Duration // measured and not split yet
	counted bool          // it has said something of itself
	split   string
	said    time.Duration // its own account, at its last counters
	own     time.Duration // weight of what nobody called for, not used yet
	lines   map[lineID]*line
}

type lineID struct {
	link   uint64
	method string
}

// A line is what is remembered of a [Line].
type line struct {
	key    key
	calls  uint64        // at its last counters
	weight time.Duration // at its last counters
	due    time.Duration // weight not used yet
	ended  uint64        // calls not charged yet
	closed bool
}

// A key is what charges are summed by.
type key struct {
	node         sdk.NodeID
	from, cell   sdk.CellName
	method       string
	source, mode string
}

// A debt is what was split and not taken yet.
type debt struct {
	calls uint64
	cpu   time.Duration
}

func (m *Meter) replica(id sdk.WorkloadID, cell sdk.CellName) *replica {
	r := m.replicas[id]
	if r == nil {
		if m.replicas == nil {
			m.replicas, m.owed = make(map[sdk.WorkloadID]*replica), make(map[key]*debt)
		}
		r = &replica{cell: cell, lines: make(map[lineID]*line)}
		m.replicas[id] = r
	}
	return r
}

// Measured takes a reading of a process. One that is below an earlier one
// changes nothing: another source measures it now, and is behind.
func (m *Meter) Measured(cell sdk.CellName, u sdk.Usage) {
	r := m.replica(u.ID, cell)
	if u.CPU > r.reading {
		r.pool += u.CPU - r.reading
		r.reading, r.source = u.CPU, u.Source
	}
}

// Counted takes what a process says of itself. A counter that is below its
// last value counts from zero: another incarnation says it.
func (m *Meter) Counted(id sdk.WorkloadID, cell sdk.CellName, c Counters) {
	r := m.replica(id, cell)
	r.counted, r.split = true, c.Split
	var worked time.Duration
	for _, l := range c.Lines {
		worked += r.count(l)
	}
	r.own += max(0, since(r.said, c.CPU)-worked)
	r.said = max(0, c.CPU)
}

// count takes one line and returns the weight it adds.
func (r *replica) count(l Line) time.Duration {
	id := lineID{l.Link, l.Method}
	known := r.lines[id]
	if known == nil {
		if len(r.lines) >= maxLines {
			return 0
		}
		known = &line{key: key{node: l.Node, from: l.From, cell: r.cell, method: l.Method}}
		r.lines[id] = known
	}
	more := since(known.weight, l.Weight)
	known.due += more
	known.weight = max(0, l.Weight)
	if l.Calls < known.calls {
		known.calls = 0
	}
	known.ended += l.Calls - known.calls
	known.calls = l.Calls
	known.closed = known.closed || l.Closed
	return more
}

// since is how much a counter has grown.
func since(last, now time.Duration) time.Duration {
	if now < last {
		last = 0
	}
	return max(0, now-last)
}

// Ended splits the rest of a process that is gone and forgets it. Its last
// reading and its last counters come before.
func (m *Meter) Ended(id sdk.WorkloadID) {
	r := m.replicas[id]
	if r == nil {
		return
	}
	m.settle(r)
	m.owe(key{cell: r.cell, source: r.source}, 0, r.pool)
	delete(m.replicas, id)
}

// settle splits what was measured of a process by the weights that have come
// since the last time. What can not be split waits in the pool: less than a
// nanosecond for each line, or all of it while the process says nothing.
func (m *Meter) settle(r *replica) {
	if !r.counted {
		m.owe(key{cell: r.cell, source: r.source}, 0, r.pool)
		r.pool = 0
		return
	}
	total := r.own
	for _, l := range r.lines {
		total += l.due
	}
	pool := r.pool
	for id, l := range r.lines {
		if l.due > 0 && pool > 0 || l.ended > 0 {
			k := l.key
			k.source, k.mode = r.source, r.split
			part := share(pool, l.due, total)
			m.owe(k, l.ended, part)
			r.pool -= part
			l.ended = 0
		}
		if pool > 0 {
			l.due = 0
		}
		if l.closed && l.due == 0 {
			delete(r.lines, id)
		}
	}
	if pool > 0 && total > 0 {
		part := share(pool, r.own, total)
		m.owe(key{cell: r.cell, source: r.source}, 0, part)
		r.pool -= part
		r.own = 0
	}
}

// share is pool × part / total, rounded down.
func share(pool, part, total time.Duration) time.Duration {
	if pool <= 0 || part <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(pool), uint64(part))
	q, _ := bits.Div64(hi, lo, uint64(total)) // fits: part is at most total
	return time.Duration(q)
}

// owe adds to what a key owes.
func (m *Meter) owe(k key, calls uint64, cpu time.Duration) {
	if calls == 0 && cpu == 0 {
		return
	}
	d := m.owed[k]
	if d == nil {
		d = &debt{}
		m.owed[k] = d
	}
	d.calls += calls
	d.cpu += cpu
}

// Charges returns what came together since the last time. Fractions of a
// microsecond are kept for the next.
func (m *Meter) Charges() []Charge {
	for _, r := range m.replicas {
		m.settle(r)
	}
	var list []Charge
	for k, d := range m.owed {
		c := Charge{Node: k.node, From: k.from, Cell: k.cell, Method: k.method, Calls: d.calls, CPU: sdk.ATP(d.cpu / time.Microsecond), Source: k.sourceText()}
		d.calls, d.cpu = 0, d.cpu%time.Microsecond
		if c.Calls > 0 || c.CPU > 0 {
			list = append(list, c)
		}
		if d.cpu == 0 || len(m.owed) > maxKeys {
			delete(m.owed, k)
		}
	}
	return list
}

// sourceText is a [Charge]'s Source.
func (k key) sourceText() string {
	if k.mode == "" {
		return k.source
	}
	return k.source + "/" + k.mode
}
