package settle

import (
	"slices"
	"time"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/kernel/meter"
	"github.com/cellkernel/cellkernel/sdk"
)

// maxOpen bounds the lines of a bill that wait to be proposed. What is beyond it
// is summed up in one.
const maxOpen = 256

// A debtor is a node that uses this one: what it used and was not told yet.
type debtor struct {
	node   sdk.NodeID
	open   []books.Job
	serves *donorSession // nil without a session
	waits  bool          // something that it was told is not signed yet
	seen   time.Time     // when it was worked for, or held a session
}

// owe adds a charge to the lines that wait.
func (d *debtor) owe(c meter.Charge, p books.Price) {
	j := books.NewJob(books.Job{From: c.From, Cell: c.Cell, Method: c.Method, Calls: c.Calls, CPU: c.CPU, Source: c.Source}, p)
	i := slices.IndexFunc(d.open, func(o books.Job) bool {
		return o.From == j.From && o.Cell == j.Cell && o.Method == j.Method && o.Source == j.Source
	})
	if i < 0 && len(d.open) >= maxOpen {
		i = maxOpen - 1
		d.open[i].Method = "..."
	}
	if i < 0 {
		d.open = append(d.open, j)
		return
	}
	o := d.open[i]
	o.Calls, o.CPU = o.Calls+j.Calls, o.CPU+j.CPU
	d.open[i] = books.NewJob(o, p)
}

// price is what the open lines come to.
func (d *debtor) price() (sum sdk.ATP) {
	for _, j := range d.open {
		sum += j.Amount
	}
	return sum
}

// debtor returns that of a node. The caller holds mu.
func (s *Settle) debtor(n sdk.NodeID) *debtor {
	if s.debtors[n] == nil {
		s.debtors[n] = &debtor{node: n, seen: time.Now()}
	}
	return s.debtors[n]
}

// collect takes what was used since the last time. A lease that is made meanwhile
// may count it twice, as open and as not billed, but never as neither.
func (s *Settle) collect() {
	charges, taken := s.opt.Meter.Charges()
	defer taken() // behind mu: it takes a lock of its own
	s.mu.Lock()
	defer s.mu.Unlock()
	price := s.opt.Price
	if !s.opt.Donor {
		price = 0
	}
	for _, c := range charges {
		if c.Node == "" || c.Node.Key() == nil || c.CPU <= 0 && c.Calls == 0 {
			continue
		}
		if s.debtors[c.Node] == nil && len(s.debtors) >= books.MaxPeers {
			s.opt.Log.Warn("work of a node is not billed: there are too many", "node", c.Node.Short(), "cpu", c.CPU.String())
			continue
		}
		d := s.debtor(c.Node)
		d.seen = time.Now()
		d.owe(c, price)
	}
}

// ready takes lines that go onto one receipt, if it is time for one.
func (s *Settle) ready(d *debtor, last time.Time) []books.Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(d.open) == 0 || d.price() < sdk.OneATP && time.Since(last) < s.opt.Interval {
		return nil
	}
	return slices.Clone(d.open[:books.Fit(d.open)])
}

// proposed forgets lines that are on a receipt. What was used meanwhile stays.
func (s *Settle) proposed(d *debtor, jobs []books.Job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range jobs {
		o := d.open[i]
		o.Calls, o.CPU = o.Calls-jobs[i].Calls, o.CPU-jobs[i].CPU
		d.open[i] = books.NewJob(o, jobs[i].Price)
	}
	d.open = slices.DeleteFunc(d.open, func(j books.Job) bool { return j.CPU == 0 && j.Calls == 0 })
}

// creditOf is how much a node may owe this one.
func (s *Settle) creditOf(p books.Peer) sdk.ATP {
	switch {
	case p.Blocked:
		return 0
	case p.CreditSet:
		return p.Credit
	case s.opt.Nodes.Member(p.Node):
		return s.opt.Credit
	}
	return 0
}
