package cell

import (
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

// afterwards is how much longer a call counts as in flight that this side gave
// up, or that the other side ended because nobody pays for it any more: its
// handler may not have heard of that yet.
const afterwards = time.Second

// A usage counts the calls over one outgoing link to another node. By it the
// kernel knows what that node can ask money for. A nil usage, of a link to a cell
// of this node, counts nothing.
type usage struct {
	mu      sync.Mutex
	calls   uint64 // begun
	running int
	until   int64 // nanos: so long it is busy, whatever runs
	at      int64 // nanos: up to here busy is counted
	busy    int64 // ns
	said    channel.OutStats
}

// count brings busy up to now. The caller holds mu.
func (u *usage) count(now int64) {
	end := min(now, u.until)
	if u.running > 0 {
		end = now
	}
	u.busy += max(0, end-u.at)
	u.at = max(u.at, now)
}

// begin notes that a call is about to be sent.
func (u *usage) begin(now int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.count(now)
	u.calls++
	u.running++
}

// end notes that a call is not in flight any more.
func (u *usage) end(now int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.count(now)
	u.running--
}

// linger notes that the handler of a call that has ended may go on.
func (u *usage) linger(now int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.count(now)
	u.until = max(u.until, now+int64(afterwards))
}

// stats are the counters, and whether they will grow without a call.
func (u *usage) stats(id uint64, now int64) channel.OutStats {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.count(now)
	return channel.OutStats{ID: id, Calls: u.calls, BusyNS: u.busy, Running: u.running > 0 || u.until > now}
}

// landed notes that a call is not in flight any more, because of err if that is
// not nil.
func (l *outLink) landed(err *sdk.Error) {
	l.inflight.Add(-1)
	if l.usage == nil {
		return
	}
	now := nanos()
	if err != nil && err.Code == sdk.CodeNoATP && err.Executed != sdk.ExecutedNo {
		l.usage.linger(now)
	}
	l.usage.end(now)
}

// touchUsage makes sure that the kernel hears of calls to other nodes soon: what
// these ask for is refused if it has not.
func (m *Membrane) touchUsage() {
	if !m.counting.Load() && !m.counting.Swap(true) {
		m.after(meterEvery, m.sayUsage)
	}
}

func (m *Membrane) sayUsage() {
	m.counting.Store(false)
	if m.tellUsage() {
		m.touchUsage()
	}
}

// used returns the outgoing links whose calls are counted.
func (m *Membrane) used() []*link {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []*link
	for _, l := range m.foreign {
		if l.usage != nil {
			list = append(list, l)
		}
	}
	return list
}

// tellUsage tells the kernel of the outgoing links whose counters have changed,
// and reports whether there will be more to say without a call.
func (m *Membrane) tellUsage() (again bool) {
	now := nanos()
	var out []channel.OutStats
	var said []*link
	flush := func() {
		if len(out) > 0 && !m.trySay(channel.Message{Type: channel.TypeStats, Stats: &channel.Stats{Out: out}}) {
			out, said, again = nil, nil, true
			return
		}
		for i, l := range said {
			l.usage.mu.Lock()
			l.usage.said = out[i]
			l.usage.mu.Unlock()
		}
		out, said = nil, nil
	}
	for _, l := range m.used() {
		st := l.usage.stats(l.info.ID, now)
		again = again || st.Running
		l.usage.mu.Lock()
		same := st == l.usage.said
		l.usage.mu.Unlock()
		if same {
			continue
		}
		if out, said = append(out, st), append(said, l); len(said) == statsBatch {
			flush()
		}
	}
	flush()
	return again
}

// lastUsage are the last counters of a link that is over.
func (l *link) lastUsage() *channel.Stats {
	if l.usage == nil {
		return nil
	}
	return &channel.Stats{Out: []channel.OutStats{l.usage.stats(l.info.ID, nanos())}}
}
