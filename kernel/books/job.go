package books

import (
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/cellkernel/cellkernel/sdk"
)

// Limits of jobs.
const (
	MaxMethod = 128  // bytes of a method's name; longer ones are cut
	maxSource = 32   // bytes of the name of a meter
	maxJobs   = 2560 // bytes of the jobs of one receipt: a record has room for them
)

// A Job is what one cell of the payer had one method of the payee do in the
// window of a receipt: one line of a bill.
type Job struct {
	From   sdk.CellName // who called
	Cell   sdk.CellName // who was called
	Method string       // "Greeter.Greet"; empty if it is not known
	Calls  uint64
	CPU    sdk.ATP // measured
	Source string  // what measured it: "cgroup2/time"
	Price  Price
	Amount sdk.ATP // to pay: Price.Of(CPU)
}

// NewJob prices a job. A name that is too long for a bill is cut.
func NewJob(j Job, p Price) Job {
	j.Method = clean(j.Method, MaxMethod)
	j.Source = clean(j.Source, maxSource)
	j.CPU = min(max(j.CPU, 0), MaxAmount)
	j.Price, j.Amount = p, p.Of(j.CPU)
	return j
}

// clean makes s printable and not too long.
func clean(s string, most int) string {
	s = strings.ReplaceAll(s, "…", "...")
	b := []byte(s[:min(len(s), most)])
	for i, c := range b {
		if c <= ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}

func (j Job) append(b []byte) []byte {
	b = appendText(b, string(j.From))
	b = appendText(b, string(j.Cell))
	b = appendText(b, j.Method)
	b = appendU64(b, j.Calls)
	b = appendATP(b, j.CPU)
	b = appendText(b, j.Source)
	b = append(b, byte(j.Price>>24), byte(j.Price>>16), byte(j.Price>>8), byte(j.Price))
	return appendATP(b, j.Amount)
}

func (r *reader) job() Job {
	j := Job{From: r.cell(), Cell: r.cell(), Method: r.text(MaxMethod), Calls: r.u64(), CPU: r.amount(), Source: r.text(maxSource)}
	j.Price, j.Amount = Price(r.u32()), r.amount()
	r.bad = r.bad || j.Price > MaxPrice
	return j
}

func appendJobs(b []byte, jobs []Job) []byte {
	b = append(b, byte(len(jobs)>>8), byte(len(jobs)))
	for _, j := range jobs {
		b = j.append(b)
	}
	return b
}

func (r *reader) jobs() []Job {
	n, before := int(r.u16()), len(r.b)
	var list []Job
	for range n {
		list = append(list, r.job())
		if r.bad || before-len(r.b) > maxJobs {
			r.bad = true
			return nil
		}
	}
	return list
}

// Fit returns how many of jobs go onto one receipt.
func Fit(jobs []Job) int {
	size := 0
	for i, j := range jobs {
		if size += len(j.append(nil)); size > maxJobs {
			return i
		}
	}
	return len(jobs)
}

// A Sum is what jobs come to.
type Sum struct {
	CPU, Amount sdk.ATP
	Calls       uint64
}

// sum adds jobs up and checks each: a name that is one, and its price.
func sum(jobs []Job) (Sum, error) {
	var s Sum
	for _, j := range jobs {
		var ok, fine bool
		s.CPU, ok = total(s.CPU, j.CPU)
		s.Amount, fine = total(s.Amount, j.Amount)
		if !ok || !fine || s.Calls+j.Calls < s.Calls {
			return s, sdk.Errorf(sdk.CodeInvalid, "sum of the jobs: more than can be counted")
		}
		s.Calls += j.Calls
		if j.Amount != j.Price.Of(j.CPU) {
			return s, sdk.Errorf(sdk.CodeInvalid, "job of %s: %s for %s of CPU at price %s: want %s", j.Cell, j.Amount, j.CPU, j.Price, j.Price.Of(j.CPU))
		}
	}
	if Fit(jobs) < len(jobs) {
		return s, sdk.Errorf(sdk.CodeInvalid, "%d jobs do not go onto one receipt", len(jobs))
	}
	return s, nil
}

// Root is the hash of a tree over jobs, RFC 6962 section 2.1: whoever has one
// job and the hashes beside its way up can tell that it is on the receipt.
func Root(jobs []Job) [32]byte {
	if len(jobs) == 0 {
		return sha256.Sum256(nil)
	}
	if len(jobs) == 1 {
		return sha256.Sum256(jobs[0].append([]byte{0}))
	}
	k := 1
	for k*2 < len(jobs) {
		k *= 2
	}
	left, right := Root(jobs[:k]), Root(jobs[k:])
	return sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
}

// String is a line for people.
func (j Job) String() string {
	return fmt.Sprintf("%s → %s.%s, %d calls, %s of CPU by %s, price %s: %s", j.From, j.Cell, j.Method, j.Calls, j.CPU, j.Source, j.Price, j.Amount)
}
