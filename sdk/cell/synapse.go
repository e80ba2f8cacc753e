package cell

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

const (
	defaultTimeout  = 30 * time.Second
	defaultAttempts = 3
	defaultLinks    = 8
	remoteLinks     = 4                     // links to one endpoint of another node
	dialTimeout     = 10 * time.Second      // for the kernel's answer
	dialPause       = 50 * time.Millisecond // after a refused dial, doubled each time
	maxDialPause    = 2 * time.Second       // at most
	retryShare      = 20                    // in 100: retries per call
	retryBurst      = 1000                  // in hundredths: retries at once
	retryCost       = 100                   // in hundredths
)

// A Synapse is this cell's connection to all that serve one name. It keeps
// links to several of them, spreads calls over them and replaces them. It is
// safe for concurrent use and lives as long as its Membrane.
type Synapse struct {
	m       *Membrane
	name    sdk.CellName
	timeout time.Duration
	retries int // further attempts
	keep    int // links
	spread  string

	links  atomic.Pointer[[]*outLink] // usable for new calls
	budget atomic.Int64               // hundredths of a retry

	mu      sync.Mutex // guards all below
	asked   bool       // the kernel was asked for endpoints
	set     []target   // what the kernel said
	failure *sdk.Error // or why there is nothing
	all     map[*outLink]struct{}
	dialing map[string]int
	pauses  map[string]*pause
	changed chan struct{} // closed and replaced when links or failure change
	clients int           // clients numbered so far
}

// A pause keeps a refused endpoint from being dialled at once again.
type pause struct {
	length time.Duration
	until  time.Time
	why    *sdk.Error // of the last dial; nil if the link had been made
}

func newSynapse(m *Membrane, name sdk.CellName) *Synapse {
	s := &Synapse{
		m: m, name: name, timeout: defaultTimeout, retries: defaultAttempts - 1, keep: defaultLinks,
		all: make(map[*outLink]struct{}), dialing: make(map[string]int),
		pauses: make(map[string]*pause), changed: make(chan struct{}),
	}
	if m.welcome.Links > 0 {
		s.keep = m.welcome.Links
	}
	if a, ok := m.welcome.Axons[name]; ok {
		if a.TimeoutMS > 0 {
			s.timeout = time.Duration(a.TimeoutMS) * time.Millisecond
		}
		if a.Retries != nil {
			s.retries = *a.Retries
		}
		s.spread = a.Spread
		if a.Links > 0 {
			s.keep = a.Links
		}
	}
	s.links.Store(new([]*outLink))
	s.budget.Store(retryBurst)
	return s
}

// Name returns the name this Synapse was made for.
func (s *Synapse) Name() sdk.CellName { return s.name }

// A moment is what a call needs to know of time. Reading the clock costs as
// much as the rest of a call's bookkeeping, so now is read once and again only
// after something that waited.
type moment struct {
	now      int64 // nanos
	deadline int64 // nanos, when the call must have ended; 0 is never
}

// moment returns now and when a call made under ctx must have ended.
func (s *Synapse) moment(ctx context.Context) moment {
	now := nanos()
	if d, ok := ctx.Deadline(); ok {
		return moment{now, max(1, now+int64(time.Until(d)))}
	}
	return moment{now, now + int64(s.timeout)}
}

// pick chooses a link for one call and waits for one if there is none.
func (s *Synapse) pick(ctx context.Context, avoid *outLink, at *moment) (*outLink, error) {
	for {
		if ls := *s.links.Load(); len(ls) > 0 {
			l := s.choose(ls, avoid, at.now)
			if !l.w.ended() {
				return l, nil
			}
			s.lost(l) // its reader has not come to say so yet
			continue
		}
		s.mu.Lock()
		s.connect()
		changed, failure := s.changed, s.failure
		if failure == nil {
			failure = s.refusal()
		}
		s.mu.Unlock()
		if failure != nil {
			return nil, failure
		}
		if len(*s.links.Load()) > 0 {
			continue
		}
		if err := await(changed, ctx.Done(), s.m.closed, timeAt(at.deadline)); err != nil {
			return nil, s.unreached(err)
		}
		if err := s.m.err(); err != nil {
			return nil, err
		}
		at.now = nanos()
	}
}

// refusal is why no endpoint can be had for a reason that time does not mend:
// each was dialled and said no. The caller holds mu.
func (s *Synapse) refusal() *sdk.Error {
	var why *sdk.Error
	for _, t := range s.wanted() {
		p := s.pauses[t.id]
		if p == nil || p.why == nil || s.dialing[t.id] > 0 || !final(p.why.Code) {
			return nil
		}
		why = p.why
	}
	return why
}

// final reports whether trying again soon is in vain.
func final(c sdk.Code) bool {
	return c == sdk.CodeDenied || c == sdk.CodeIncompatible || c == sdk.CodeNoATP
}

// unreached is the error of a call that waited for an endpoint in vain.
func (s *Synapse) unreached(err error) *sdk.Error {
	e := notExecuted(err)
	e.Text = fmt.Sprintf("resolve %q: no endpoint: %s", s.name, e.Text)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pauses {
		if p.why != nil {
			e.Text += "; last try: " + p.why.Text
			break
		}
	}
	return e
}

// choose balances by what the axon asks for.
func (s *Synapse) choose(ls []*outLink, avoid *outLink, now int64) *outLink {
	if s.spread == "even" {
		return ls[rand.IntN(len(ls))]
	}
	return choose(ls, avoid, now)
}

// connect asks for endpoints if that was not done yet, and dials the links
// that are missing. The caller holds mu.
func (s *Synapse) connect() {
	if !s.asked {
		s.asked = true
		s.m.say(channel.Message{Type: channel.TypeNeed, Name: s.name})
	}
	for _, t := range s.wanted() {
		for range t.links - s.count(t.id) {
			if p := s.pauses[t.id]; p != nil && time.Now().Before(p.until) {
				break
			}
			s.dialing[t.id]++
			s.m.wg.Go(func() { s.dial(t.id) })
		}
	}
}

// wanted is the part of the set this cell keeps links to. The caller holds mu.
func (s *Synapse) wanted() []target { return subset(s.m.identity(), s.set, s.keep) }

// count is the number of links to an endpoint, made or in the making.
func (s *Synapse) count(id string) int {
	n := s.dialing[id]
	for l := range s.all {
		if l.endpoint == id && !l.closing.Load() {
			n++
		}
	}
	return n
}

// dial makes one link to an endpoint.
func (s *Synapse) dial(id string) {
	l, err := s.m.dial(s, id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dialing[id]--; s.dialing[id] == 0 {
		delete(s.dialing, id)
	}
	if err != nil {
		s.pause(id, sdk.AsError(err))
		s.publish() // whoever waits may give up
		return
	}
	delete(s.pauses, id)
	s.all[l] = struct{}{}
	s.m.reaper.add(l)
	if err := s.m.err(); err != nil {
		l.w.fail(err)
	}
	if l.w.reason() != nil {
		s.forget(l)
	}
	s.trim()
	s.publish()
}

// pause keeps id from being dialled for a while, then tries again if it is
// still wanted. why is the error of the dial, nil if a link ended.
func (s *Synapse) pause(id string, why *sdk.Error) {
	p := s.pauses[id]
	if p == nil {
		p = &pause{length: dialPause / 2}
		s.pauses[id] = p
	}
	p.why = why
	p.length = min(2*p.length, maxDialPause)
	p.until = time.Now().Add(p.length)
	s.m.after(p.length, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.pauses[id] == p {
			s.connect()
		}
	})
}

// update takes a new set of endpoints from the kernel.
func (s *Synapse) update(e *channel.Endpoints, failure *sdk.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set, s.failure = nil, failure
	if failure != nil {
		for l := range s.all {
			if !l.closing.Swap(true) {
				s.m.wg.Go(l.closeIfIdle)
			}
		}
	}
	if e != nil {
		for _, id := range e.Local {
			s.set = append(s.set, target{id, 1})
		}
		for _, r := range e.Remote {
			s.set = append(s.set, target{r.ID, max(1, min(r.Replicas, remoteLinks))})
		}
	}
	for id := range s.pauses {
		if !slices.ContainsFunc(s.set, func(t target) bool { return t.id == id }) {
			delete(s.pauses, id)
		}
	}
	s.connect()
	s.publish()
}

// trim closes links that are over the number kept, those first that are not
// wanted any more. The caller holds mu.
func (s *Synapse) trim() {
	want := s.wanted()
	total := 0
	for _, t := range want {
		total += t.links
	}
	if len(*s.links.Load()) < total {
		return
	}
	for l := range s.all {
		if !slices.ContainsFunc(want, func(t target) bool { return t.id == l.endpoint }) && !l.closing.Swap(true) {
			s.m.wg.Go(l.closeIfIdle)
		}
	}
}

// publish makes the usable links visible to callers. The caller holds mu.
func (s *Synapse) publish() {
	usable := make([]*outLink, 0, len(s.all))
	for l := range s.all {
		if !l.closing.Load() {
			usable = append(usable, l)
		}
	}
	isRemote := func(l *outLink) bool { return !l.peer.Local }
	if s.spread == "local" && slices.ContainsFunc(usable, func(l *outLink) bool { return l.peer.Local }) {
		usable = slices.DeleteFunc(usable, isRemote)
	}
	s.links.Store(&usable)
	close(s.changed)
	s.changed = make(chan struct{})
}

// lost takes a link that ended, or that takes no new calls, out of use.
func (s *Synapse) lost(l *outLink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.all[l]; !ok {
		return
	}
	if l.w.reason() != nil {
		s.forget(l)
	}
	s.publish()
	s.connect()
}

// forget removes a dead link. The endpoint rests: if it died, the kernel will
// say so, and dialling it meanwhile is in vain.
func (s *Synapse) forget(l *outLink) {
	delete(s.all, l)
	s.m.reaper.remove(l)
	s.m.wg.Go(func() { l.close(errLinkClosed) })
	if s.m.err() == nil && !l.closing.Load() {
		s.pause(l.endpoint, nil)
	}
}

// mayRetry reports whether a call that failed with err is to be sent again.
// The budget keeps retries from multiplying load; a replica that refuses
// because it shuts down costs nothing and is not counted.
func (s *Synapse) mayRetry(err error, attempt int, idempotent bool) bool {
	e := sdk.AsError(err)
	if attempt > s.retries || !e.Retryable(idempotent) {
		return false
	}
	if e.Code == sdk.CodeUnavailable && e.Executed == sdk.ExecutedNo {
		return true
	}
	if s.budget.Add(-retryCost) < 0 {
		s.budget.Add(retryCost)
		return false
	}
	return true
}

// earn adds a call's share to the budget of retries.
func (s *Synapse) earn() {
	if s.budget.Load() < retryBurst {
		s.budget.Add(retryShare)
	}
}

// close ends all links.
func (s *Synapse) close(err error) {
	s.mu.Lock()
	links := make([]*outLink, 0, len(s.all))
	for l := range s.all {
		links = append(links, l)
	}
	s.failure = sdk.AsError(err)
	s.publish()
	s.mu.Unlock()
	for _, l := range links {
		l.w.fail(err)
	}
}
