package cell

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"golang.org/x/sys/unix"
)

// callCost is what a call is reckoned to cost besides its handler: reading the
// request and writing the reply.
const callCost = int64(2 * time.Microsecond)

// An account splits what this process uses over the links it serves. It gives
// the kernel an absolute weight for each method of each link, an estimate of
// the CPU that its handlers took; the kernel charges what it has measured in
// that proportion.
//
// As long as the handlers' time is what the process used, it is the weight.
// When it is more, because handlers sleep or there are too few cores, or much
// less, because they start goroutines, the process is sampled: see rates.go.
// Until the first samples have come, what is to be split is held back.
type account struct {
	m    *Membrane
	busy atomic.Bool  // a handler may be running since the last look
	woke atomic.Int64 // ns of the process when it was idle for the last time

	leasing sync.Mutex // guards leases
	leases  map[sdk.NodeID]*allowance

	mu      sync.Mutex // guards all below and every linkAccount
	cpu     int64      // ns of the process, at the last look
	heldCPU int64      // ns used that are not decided yet
	held    int64      // ns in handlers that are not decided yet
	split   string
	sampler sampler
	rates   rates
}

// A linkAccount is what is known of one link.
type linkAccount struct {
	methods []methodAccount
	named   int   // methods that are counted apart
	held    int64 // ns in handlers that are not decided yet
	window  int64 // ns in handlers since samples are taken
	seen    found // what samples showed so far
	said    channel.LinkStats
	fresh   bool // weights changed since they were said
}

// A methodAccount is what is known of one method of a link.
type methodAccount struct {
	busy, held   int64 // ns: at the last look; not decided yet
	calls, owing uint64
	weight       int64 // ns
	apart        bool
}

// meter prepares a link that is about to be served.
func (l *inLink) meter() {
	if !l.m.welcome.Meter {
		return
	}
	l.labels = labelled(l.link)
	l.account.methods = make([]methodAccount, len(l.tallies))
	if l.peer.Node != "" {
		l.lease = l.m.account.leaseOf(l.peer.Node)
	}
}

// processCPU is the CPU time of this process and of children it has waited
// for, in ns.
func processCPU() int64 {
	var sum int64
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var ru unix.Rusage
		if unix.Getrusage(who, &ru) == nil { // has no way to fail
			sum += ru.Utime.Nano() + ru.Stime.Nano()
		}
	}
	return sum
}

// wake notes that a handler begins to run. What the process did while none ran
// is its own.
func (a *account) wake() {
	if !a.busy.Swap(true) {
		a.woke.Store(processCPU())
	}
}

// look reads the counters of all links and tells the kernel those that have
// changed. It reports whether there will be more to say without a call ending.
func (a *account) look() (again bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	links := a.m.metered()
	if a.m.welcome.Meter {
		again = a.read(links)
		if a.decide(links) {
			a.settle(links)
		} else {
			again = true
		}
		a.reckon(links)
	}
	a.busy.Store(again)
	if !a.tell(links) {
		again = true // the kernel is stopped, or slow
	}
	return again
}

// metered lists the links that are served, and those that have ended whose
// handlers go on.
func (m *Membrane) metered() []*inLink {
	m.mu.Lock()
	defer m.mu.Unlock()
	links := make([]*inLink, 0, len(m.in)+len(m.outlived))
	for _, l := range m.in {
		links = append(links, l)
	}
	for l := range m.outlived {
		links = append(links, l)
	}
	return links
}

// read takes in what handlers have done since the last look, and reports
// whether any of them runs.
func (a *account) read(links []*inLink) (running bool) {
	cpu := processCPU()
	a.cpu = max(a.cpu, a.woke.Load())
	a.heldCPU += cpu - a.cpu
	a.cpu = cpu
	for _, l := range links {
		if d := l.account.read(l); d > 0 {
			a.held += d
			running = running || l.active.Load() > 0
		}
	}
	return running
}

// read takes in what the handlers of a link have done.
func (c *linkAccount) read(l *inLink) (more int64) {
	now := nanos()
	for i := range c.methods {
		m, t := &c.methods[i], &l.tallies[i]
		if d := t.busy(now) - m.busy; d > 0 {
			m.busy, m.held, more = m.busy+d, m.held+d, more+d
		}
		n := t.calls.Load()
		m.owing, m.calls = m.owing+n-m.calls, n
	}
	c.held += more
	c.window += more
	return more
}

// settle turns what is held into weights.
func (a *account) settle(links []*inLink) {
	scale := a.part() // a lease is of CPU time: who waits in its handlers uses none of it
	if a.rates.odd {  // rates are of a while ago: now they say who, not how much
		if worked := a.worked(links); worked > 0 {
			scale = float64(a.heldCPU) * (1 - a.rates.own) / worked
		}
	}
	for _, l := range links {
		w := l.account.settle(a.rates.of(&l.account) * scale)
		if l.lease != nil {
			l.lease.used.Add(w)
		}
	}
	a.held, a.heldCPU = 0, 0
	a.split = a.rates.split()
}

// settle turns what is held of a link into weights, and returns their sum.
func (c *linkAccount) settle(rate float64) (sum int64) {
	for i := range c.methods {
		m := &c.methods[i]
		if m.held == 0 && m.owing == 0 {
			continue
		}
		w := int64(float64(m.held)*rate) + int64(m.owing)*callCost
		m.weight, m.held, m.owing = m.weight+w, 0, 0
		sum += w
		c.fresh = true
	}
	c.held = 0
	return sum
}

// part is how much of the time in handlers was CPU time, at most all of it.
func (a *account) part() float64 {
	if a.held <= 0 {
		return 1
	}
	return min(1, float64(a.heldCPU)/float64(a.held))
}

// reckon says what of the leases is probably used by what is not decided yet,
// and ends the calls of those who have used up theirs. Handlers may have done
// more than their time shows, in goroutines and in reading and writing: until
// that is known, all that the process used is taken for theirs.
func (a *account) reckon(links []*inLink) {
	part := 1.0
	if a.held > 0 {
		part = float64(a.heldCPU) / float64(a.held)
	}
	open := make(map[*allowance]int64)
	for _, l := range links {
		if l.lease != nil {
			open[l.lease] += int64(float64(l.account.held) * part)
		}
	}
	now := nanos()
	for le, n := range open {
		le.open.Store(n)
		le.look(now)
	}
	for _, l := range links {
		if l.lease != nil && l.active.Load() > 0 && l.lease.spent() {
			l.evict()
		}
	}
}

// last settles a link that has ended and returns its last counters.
func (a *account) last(l *inLink) *channel.Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.m.welcome.Meter {
		a.settleOne(l)
	}
	s := a.stats()
	a.m.mu.Lock()
	delete(a.m.outlived, l)
	a.m.mu.Unlock()
	s.Links = []channel.LinkStats{l.stats()}
	return s
}

// settleOne settles a link that has ended without waiting for the others.
func (a *account) settleOne(l *inLink) {
	a.read([]*inLink{l})
	rate := 1.0
	if l.account.seen.known() {
		rate = a.rates.of(&l.account)
	} else if a.heldCPU < a.held {
		rate = float64(a.heldCPU) / float64(a.held)
	}
	a.held -= l.account.held
	w := l.account.settle(rate)
	a.heldCPU -= min(w, a.heldCPU)
	if a.split == "" { // no look was taken yet: else the kernel would take these for no weights
		a.split = a.rates.split()
	}
	if l.lease != nil {
		l.lease.used.Add(w)
	}
}

// stats are those of the process.
func (a *account) stats() *channel.Stats {
	if !a.m.welcome.Meter {
		return &channel.Stats{}
	}
	return &channel.Stats{CPUNS: a.cpu - a.heldCPU, Split: a.split}
}

// tell says the counters that have changed, and reports whether the kernel's
// queue had room.
func (a *account) tell(links []*inLink) bool {
	for len(links) > 0 {
		s := a.stats()
		var said []*inLink
		for room := statsBatch; room > 0 && len(links) > 0; links = links[1:] {
			l := links[0]
			st := l.stats()
			if !l.account.changed(st) {
				continue
			}
			s.Links, said = append(s.Links, st), append(said, l)
			room -= 1 + len(st.Methods)
		}
		if len(said) == 0 {
			return true
		}
		if !a.m.trySay(channel.Message{Type: channel.TypeStats, Stats: s}) {
			return false
		}
		for i, l := range said {
			l.account.said, l.account.fresh = s.Links[i], false
			l.account.said.Methods = nil
		}
	}
	return true
}

// changed reports whether st says something new.
func (c *linkAccount) changed(st channel.LinkStats) bool {
	st.Methods = nil
	o := &c.said
	return c.fresh || st.Calls != o.Calls || st.Errors != o.Errors || st.HandlerUS != o.HandlerUS || st.BytesIn != o.BytesIn || st.BytesOut != o.BytesOut
}

// close ends the samples, if any are being taken.
func (a *account) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sampler.on {
		_, _ = a.sampler.stop() // nobody needs them any more
	}
}

// stats are the link's counters. The caller holds the account's mu.
func (l *inLink) stats() channel.LinkStats {
	calls, busy := l.handlerTime()
	s := channel.LinkStats{
		ID: l.info.ID, Calls: calls, Errors: l.errors.Load(), HandlerUS: uint64(busy / 1000),
		BytesIn: l.r.bytes.Load(), BytesOut: l.w.bytes.Load(),
	}
	others := channel.MethodStats{Method: channel.OtherMethods}
	for i := range l.account.methods {
		m := &l.account.methods[i]
		if m.calls == 0 && m.weight == 0 {
			continue
		}
		if !m.apart && l.account.named < channel.MaxMethods {
			m.apart = true
			l.account.named++
		}
		if m.apart {
			s.Methods = append(s.Methods, channel.MethodStats{Method: l.m.methods[i].name(), Calls: m.calls, WeightNS: m.weight})
		} else {
			others.Calls, others.WeightNS = others.Calls+m.calls, others.WeightNS+m.weight
		}
	}
	if others.Calls > 0 || others.WeightNS > 0 {
		s.Methods = append(s.Methods, others)
	}
	return s
}
