package wallet

import (
	"fmt"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/sdk"
)

// Format begins a file of receipts.
const Format = "cellkernel-receipts/1"

// MaxReceipts is how many of them a file has at most.
const MaxReceipts = 1 << 20

// A File is a set of receipts that convinces whoever knows the ids of the two
// nodes: all else is in the signatures.
type File struct {
	Format   string        `json:"format"` // Format
	Receipts []FileReceipt `json:"receipts"`
}

// A FileReceipt is a receipt with both signatures, and its bill.
type FileReceipt struct {
	Signed []byte           `json:"signed"` // [books.Signed.Bytes]
	Jobs   []admin.EntryJob `json:"jobs,omitempty"`
}

// NewFileReceipt is the one of an entry.
func NewFileReceipt(e *admin.Entry) FileReceipt { return FileReceipt{e.Receipt.Signed, e.Jobs} }

// A Finding is what [Check] found. All amounts are CPU-microseconds.
type Finding struct {
	OK       bool         `json:"ok"`
	Receipts int          `json:"receipts"`
	Totals   []Total      `json:"totals"`             // of each pair of nodes
	Problems []string     `json:"problems,omitempty"` // what does not hold
	Cheats   []sdk.NodeID `json:"cheats,omitempty"`   // who signed two receipts with one number
}

// A Total is what the last receipt of a payer and a payee says: the whole truth.
type Total struct {
	Payer    sdk.NodeID `json:"payer"`
	Payee    sdk.NodeID `json:"payee"`
	Epoch    uint64     `json:"epoch"`
	Seq      uint64     `json:"seq"`
	CPU      sdk.ATP    `json:"cpu_us"`
	Amount   sdk.ATP    `json:"amount_us"`
	Calls    uint64     `json:"calls"`
	Receipts int        `json:"receipts"` // in this file
	Gaps     int        `json:"gaps"`     // places where some are left out
}

type pair struct{ payer, payee sdk.NodeID }

type checker struct {
	Finding
	last   map[pair]books.Signed
	totals map[pair]*Total
	order  []pair
}

// Check checks every signature and every sum of a file, and that each receipt
// follows the one before. Receipts may be left out, not exchanged.
func Check(f *File) (*Finding, error) {
	if f.Format != Format {
		return nil, sdk.Errorf(sdk.CodeInvalid, "read receipts: format %.40q: want %q", f.Format, Format)
	}
	if len(f.Receipts) > MaxReceipts {
		return nil, sdk.Errorf(sdk.CodeTooLarge, "read receipts: %d: at most %d", len(f.Receipts), MaxReceipts)
	}
	c := checker{last: map[pair]books.Signed{}, totals: map[pair]*Total{}}
	c.Receipts = len(f.Receipts)
	for i := range f.Receipts {
		if problem := c.receipt(&f.Receipts[i]); problem != "" {
			c.Problems = append(c.Problems, fmt.Sprintf("receipt %d: %s", i+1, problem))
		}
	}
	for _, p := range c.order {
		c.Totals = append(c.Totals, *c.totals[p])
	}
	c.OK = len(c.Problems) == 0
	return &c.Finding, nil
}

// receipt says what is wrong with one, if anything is.
func (c *checker) receipt(f *FileReceipt) string {
	s, err := books.ParseSigned(f.Signed)
	if err != nil {
		return err.Error()
	}
	payee, payer := s.Verify()
	switch {
	case !payee:
		return "the payee's signature does not hold"
	case !payer:
		return "the payer's signature does not hold"
	}
	jobs, ok := booked(f.Jobs)
	if !ok || len(jobs) > 0 && books.Root(jobs) != s.Jobs {
		return "its jobs are not those that were signed"
	}
	p := pair{s.Payer, s.Payee}
	t, last := c.totals[p], c.last[p]
	if t == nil {
		t = &Total{Payer: s.Payer, Payee: s.Payee}
		c.totals[p], c.order = t, append(c.order, p)
		if s.Prev != [32]byte{} {
			t.Gaps++
		}
	} else if problem := c.follows(&s, &last, jobs); problem != "" {
		return problem
	} else if s.Prev != last.Hash() {
		t.Gaps++
	}
	c.last[p] = s
	t.Epoch, t.Seq, t.CPU, t.Amount, t.Calls = s.Epoch, s.Seq, s.CPU, s.Receipt.Amount, s.Calls
	t.Receipts++
	return ""
}

// follows says why s can not be behind last.
func (c *checker) follows(s, last *books.Signed, jobs []books.Job) string {
	proof := books.Proof{A: *last, B: *s}
	if cheats := proof.Cheats(); len(cheats) > 0 {
		c.Cheats = cheats
		return fmt.Sprintf("there are two with the number %d.%d, both signed", s.Epoch, s.Seq)
	}
	switch {
	case s.Epoch < last.Epoch || s.Epoch == last.Epoch && s.Seq <= last.Seq:
		return fmt.Sprintf("its number %d.%d is behind %d.%d", s.Epoch, s.Seq, last.Epoch, last.Seq)
	case s.CPU < last.CPU || s.Receipt.Amount < last.Receipt.Amount || s.Calls < last.Calls:
		return "its sums are less than those before it"
	case s.Epoch == last.Epoch && s.Seq == last.Seq+1 && s.Prev != last.Hash():
		return "it does not name the one before"
	case s.Prev != last.Hash() || len(jobs) == 0:
		return ""
	}
	cpu, amount, calls := last.CPU, last.Receipt.Amount, last.Calls
	for _, j := range jobs {
		cpu, amount, calls = cpu+j.CPU, amount+j.Amount, calls+j.Calls
	}
	if cpu != s.CPU || amount != s.Receipt.Amount || calls != s.Calls {
		return "its sums are not those of the one before and its jobs"
	}
	return ""
}

// booked is a bill as it was signed. What is too long for one never was: the
// length of a name is one byte of what is hashed.
func booked(list []admin.EntryJob) (jobs []books.Job, ok bool) {
	for _, j := range list {
		if max(len(j.From), len(j.Cell), len(j.Method), len(j.Meter)) > books.MaxMethod || j.CPU < 0 || j.Amount < 0 {
			return nil, false
		}
		jobs = append(jobs, books.Job{
			From: j.From, Cell: j.Cell, Method: j.Method, Calls: j.Calls, CPU: j.CPU, Source: j.Meter, Price: books.Price(j.Price), Amount: j.Amount,
		})
	}
	return jobs, books.Fit(jobs) == len(jobs)
}
