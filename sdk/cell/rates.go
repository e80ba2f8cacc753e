package cell

import (
	"log/slog"
	"math"
	"time"
)

// When samples are taken, in ns.
const (
	sampleLeast = int64(250 * time.Millisecond) // of a clock on the wall
	sampleWork  = int64(200 * time.Millisecond) // of CPU: about 20 samples
	sampleMost  = int64(time.Second)
	sampleAgain = int64(2 * time.Second)        // from one to the next, as long as nothing is odd
	sampleSoon  = int64(500 * time.Millisecond) // and if something is
)

// How samples are weighed.
const (
	fewSamples = 8   // show nothing
	oldSamples = 0.8 // of their weight is left when others come
	surprise   = 3   // standard deviations
)

// Rates say how much CPU a nanosecond in a handler stands for. As long as
// nothing is odd that is one. Otherwise samples tell: links whose samples are
// as many as those of others, for the same time in handlers, have one rate;
// those with clearly fewer, whose handlers sleep, or more, whose handlers have
// started goroutines, have one each. So time decides between those that only
// share too few cores, and samples, which are few, between what differs much.
type rates struct {
	odd    bool    // time is not what the process used: the rates count
	common float64 // of links that nothing is known about
	own    float64 // share of the process's CPU that no link is to blame for
	nobody float64 // samples that show it
	total  float64 // of so many
	next   int64   // nanos: when samples are taken again, if only to be sure
	soon   int64   // nanos: and when not before, even if something is odd
	failed bool    // the last try to take samples found the profiler taken
}

// found is what samples showed of one link so far, and what they would have
// shown if its handlers had run all the time.
type found struct {
	got, could float64
	rate       float64
}

// known reports whether that is enough to tell.
func (f *found) known() bool { return f.could >= fewSamples }

// of returns the rate of a link.
func (r *rates) of(c *linkAccount) float64 {
	switch {
	case !r.odd:
		return 1
	case c.seen.known():
		return c.seen.rate
	}
	return r.common
}

// split says what the weights are made from.
func (r *rates) split() string {
	if r.odd && !r.failed {
		return "samples"
	}
	return "time"
}

// decide reports whether what is held can be split now. It takes samples where
// they are needed.
func (a *account) decide(links []*inLink) bool {
	now := nanos()
	if a.sampler.on {
		wait, work := now-a.sampler.since, a.cpu-a.sampler.cpu
		if wait < sampleLeast || work < sampleWork && wait < sampleMost {
			return a.rates.common != 0 && !a.unknown(links)
		}
		a.learn(links, work)
		a.rates.next, a.rates.soon = now+sampleAgain, now+sampleSoon
		return a.rates.usable()
	}
	needed := false
	if a.rates.odd = a.odd(links); a.rates.odd {
		needed = a.rates.common == 0 || a.unknown(links) || a.strange(links)
	}
	if !a.rates.odd || now < a.rates.soon || !needed && now < a.rates.next {
		return a.rates.usable()
	}
	if a.rates.failed = !a.sampler.start(now, a.cpu); a.rates.failed {
		a.rates.soon = now + sampleAgain
		return a.rates.usable()
	}
	for _, l := range links {
		l.account.window = 0
	}
	return !needed
}

// usable is true. Without samples it is time that decides.
func (r *rates) usable() bool {
	if r.common == 0 || r.failed {
		r.odd = false
	}
	return true
}

// odd reports whether time in handlers is not what the process used.
func (a *account) odd(links []*inLink) bool {
	callers, calls := 0, int64(0)
	for _, l := range links {
		if l.account.held > a.held/100 && l.account.held > 0 {
			callers++
		}
		for i := range l.account.methods {
			calls += int64(l.account.methods[i].owing)
		}
	}
	const slack = int64(2 * time.Millisecond)
	switch {
	case callers == 0:
		return false
	case a.held > a.heldCPU+a.heldCPU/10+slack:
		return callers > 1 // one alone is charged for all of it anyway
	}
	return a.unexplained(float64(a.held + calls*callCost))
}

// unexplained reports whether the process used clearly more than worked
// accounts for.
func (a *account) unexplained(worked float64) bool {
	const slack = float64(10 * time.Millisecond)
	return float64(a.heldCPU)*(1-a.rates.own) > worked*1.25+slack
}

// strange reports whether the process used clearly more than its handlers
// would by the rates that are known.
func (a *account) strange(links []*inLink) bool {
	return a.unexplained(a.worked(links))
}

// worked is the CPU that handlers have used by the rates.
func (a *account) worked(links []*inLink) (sum float64) {
	for _, l := range links {
		sum += float64(l.account.held) * a.rates.of(&l.account)
	}
	return sum
}

// unknown reports whether there is a link with much time that no samples
// were taken of.
func (a *account) unknown(links []*inLink) bool {
	for _, l := range links {
		if !l.account.seen.known() && l.account.held > a.held/50 {
			return true
		}
	}
	return false
}

// learn takes in what the samples showed.
func (a *account) learn(links []*inLink, work int64) {
	s, err := a.sampler.stop()
	if err != nil {
		slog.Error("sample this process", "error", err)
	}
	if err != nil || s.total < fewSamples {
		return
	}
	period := float64(work) / float64(s.total) // ns of CPU for each
	labelled := int64(0)
	var all []*found
	for _, l := range links {
		f := &l.account.seen
		f.got = f.got*oldSamples + float64(s.links[l.info.ID])
		f.could = f.could*oldSamples + float64(l.account.window)/period
		labelled += s.links[l.info.ID]
		all = append(all, f)
	}
	a.rates.blame(float64(s.total-labelled), float64(s.total))
	a.rates.common = judge(all)
}

// blame takes in how many samples no link is to blame for. Where handlers run
// the runtime works for them, too: only what clearly is somebody else counts.
func (r *rates) blame(nobody, total float64) {
	r.nobody, r.total = r.nobody*oldSamples+nobody, r.total*oldSamples+total
	r.own = max(0, r.nobody-surprise*math.Sqrt(r.nobody)) / r.total
}

// judge gives every link its rate and returns the common one.
func judge(all []*found) (common float64) {
	for _, f := range all {
		if f.got >= fewSamples && f.could > 0 {
			common = max(common, f.got/f.could)
		}
	}
	for range 3 { // from the quickest to the mean of those that are like it
		got, could := 0.0, 0.0
		for _, f := range all {
			if f.like(common) {
				got, could = got+f.got, could+f.could
			}
		}
		if could > 0 && got > 0 {
			common = got / could
		}
	}
	if common == 0 {
		common = 1
	}
	for _, f := range all {
		f.rate = common
		if f.could > 0 && !f.like(common) {
			f.rate = f.got / f.could
		}
	}
	return common
}

// like reports whether samples do not speak against a rate.
func (f *found) like(rate float64) bool {
	want := rate * f.could
	return math.Abs(f.got-want) <= surprise*math.Sqrt(want)+1
}
