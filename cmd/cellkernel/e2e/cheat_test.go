package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/e2e/testdata/probe/api"
	"github.com/cellkernel/cellkernel/sdk"
)

// Whoever cheats is a member like all others and has a kernel of its own
// making. Ours for these tests is this program with some lines of
// kernel/settle changed, as somebody who cheats would; CHEAT says how.
var changes = []struct{ file, line, with string }{
	{"payer.go", "\to, ok := m.(books.Proposal)\n", "\tif os.Getenv(\"CHEAT\") == \"sign nothing\" {\n\t\treturn nil\n\t}\n\to, ok := m.(books.Proposal)\n"},
	{"payer.go", "import (\n", "import (\n\t\"os\"\n"},
	{"debtor.go", ".owe(c, price)", ".owe(tenfold(c), price)"},
	{"donor.go", "\treturn say(d.stream, step.Send)\n", "\treturn d.cheat(step.Send)\n"},
}

const cheatFile = `package settle

import (
	"os"
	"sync"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/kernel/meter"
)

// tenfold claims ten times of what was used.
func tenfold(c meter.Charge) meter.Charge {
	if os.Getenv("CHEAT") == "claim more" {
		c.CPU *= 10
	}
	return c
}

var cheated struct {
	sync.Mutex
	said []books.Proposal
}

// cheat sends a proposal, and once, when some are settled, another with its
// number, or all that were sent before.
func (d *donorSession) cheat(m books.Message) error {
	p, ok := m.(books.Proposal)
	if !ok {
		return say(d.stream, m)
	}
	cheated.Lock()
	cheated.said = append(cheated.said, p)
	said := cheated.said
	cheated.Unlock()
	if err := say(d.stream, p); err != nil || len(said) != 5 {
		return err
	}
	switch os.Getenv("CHEAT") {
	case "sign twice":
		p.To++
		p.PayeeSig = d.s.opt.Self.SignReceipt(p.Receipt.Bytes())
		return say(d.stream, p)
	case "show again":
		for _, old := range said[:4] {
			if err := say(d.stream, old); err != nil {
				return err
			}
		}
	}
	return nil
}
`

// cheater builds that program, once.
var cheater = sync.OnceValues(func() (string, error) {
	dir := filepath.Dir(binary)
	over := struct{ Replace map[string]string }{map[string]string{}}
	text := map[string]string{"cheat.go": cheatFile}
	for _, c := range changes {
		if text[c.file] == "" {
			b, err := os.ReadFile(filepath.Join(checkout, "kernel/settle", c.file))
			if err != nil {
				return "", err
			}
			text[c.file] = string(b)
		}
		if strings.Count(text[c.file], c.line) != 1 {
			return "", fmt.Errorf("kernel/settle/%s has %q not once: change what the cheat changes", c.file, c.line)
		}
		text[c.file] = strings.Replace(text[c.file], c.line, c.with, 1)
	}
	for name, t := range text {
		file := filepath.Join(dir, "cheat-"+name)
		if err := os.WriteFile(file, []byte(t), 0o600); err != nil {
			return "", err
		}
		over.Replace[filepath.Join(checkout, "kernel/settle", name)] = file
	}
	b, err := json.Marshal(over)
	overlay, out := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "cheater")
	if err == nil {
		err = os.WriteFile(overlay, b, 0o600)
	}
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-overlay", overlay, "-o", out, "./cmd/cellkernel")
	cmd.Dir, cmd.Env = checkout, append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the cheat: %w: %s", err, said)
	}
	return out, nil
})

// cheats gives a node the kernel that does.
func (n *node) cheats(how string) {
	n.t.Helper()
	var err error
	if n.program, err = cheater(); err != nil {
		n.t.Fatal(err)
	}
	n.env = append(n.env, "CHEAT="+how)
}

var meteredLine = regexp.MustCompile(`(?m)^cellkernel_metered_cpu_seconds_total\{from="[^"]*",node="[^"]+",to="work"\} (\S+)$`)

// metered is what other nodes have used of the cell "work", as the donor's meter
// has split it, before anything is billed.
func (d *trade) metered() (sum sdk.ATP) {
	d.t.Helper()
	var text strings.Builder
	scrape(d.t.Context(), d.t, d.donor, &text)
	for _, m := range meteredLine.FindAllStringSubmatch(text.String(), -1) {
		v, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			d.t.Fatal(err)
		}
		sum += sdk.ATP(v*1e6 + 0.5)
	}
	return sum
}

// exposure is the bound of DESIGN.md, section 9, worked out here: max(10 ATP,
// cores × 10 ATP/s × (receipt interval + 2 round trips + 50 ms)). 1 ATP is 100 000.
func exposure(rtt time.Duration) sdk.ATP {
	seconds := 0.100 + 2*rtt.Seconds() + 0.050
	return max(10*100_000, sdk.ATP(float64(runtime.NumCPU())*10*seconds*100_000))
}

// newCheated is a trade in which one side cheats, under as much load as the
// machine bears.
func newCheated(t *testing.T, who, how string) *trade {
	t.Helper()
	d := prepareTrade(t, "")
	map[string]*node{"client": d.client, "donor": d.donor}[who].cheats(how)
	d.boot()
	d.since = time.Now()
	order := &api.Order{To: "work", Method: "work", Callers: 16, DeadlineMS: 2000, PauseUS: 500}
	if _, err := d.client.client(d.client.mesh(), "asker").Load(t.Context(), order); err != nil {
		t.Fatal(err)
	}
	return d
}

// still waits until a value has not changed for a while, and returns it.
func still(n *node, what string, value func() sdk.ATP) sdk.ATP {
	n.t.Helper()
	before, since := value(), time.Now()
	n.eventually(what, func() bool {
		if now := value(); now != before {
			before, since = now, time.Now()
		}
		return time.Since(since) > 3*time.Second
	})
	return before
}

// A payer that signs nothing, with a real kernel on the other side: it is
// worked for up to the bound. It may come back, and gets nothing more.
func TestPayerThatSignsNothing(t *testing.T) {
	t.Parallel()
	d := newCheated(t, "client", "sign nothing")
	d.client.eventually("it is worked for", func() bool { return d.metered() > 0 })
	took := still(d.donor, "it is worked for no more", d.metered)
	d.unload()
	d.restart(d.client)
	d.load()
	took = max(took, still(d.donor, "it is worked for no more", d.metered))
	d.unload()
	bound := exposure(0)
	t.Logf("a payer that signs nothing took %s, the bound is %s", took, bound)
	if took > bound || took < bound/4 {
		t.Errorf("it took %s, the bound is %s", took, bound)
	}
	if w := d.donor.wallet(); w.Earned != 0 || w.Claimed+w.Peers[0].Open != took {
		t.Errorf("the meter has %s, the donor's wallet %+v", took, w)
	}
	out := d.client.relay(d.client.client(d.client.mesh(), "asker"), "work", patience/2)
	contains(t, out.Error, "is not signed for yet", `"cellkernel wallet"`)
}

// A donor that claims ten times of what it did, with a real kernel on the other
// side, gets no more than what its cores can have done while a call was in
// flight, and what may be open.
func TestDonorThatClaimsMore(t *testing.T) {
	t.Parallel()
	d := newCheated(t, "donor", "claim more")
	d.client.eventually("something is paid", func() bool { return d.client.wallet().Spent > 0 })
	spent := func() sdk.ATP { return d.client.wallet().Spent }
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(10 * look) {
		spent()
	}
	d.unload()
	wall := time.Since(d.since) // in which a call was in flight
	took := still(d.client, "nothing more is paid", spent)
	bound := exposure(0) + sdk.ATP(float64(runtime.NumCPU())*float64(wall.Microseconds())*1.02)
	t.Logf("a donor that did %s and claimed ten times as much took %s, the bound is %s for %s", d.metered(), took, bound, wall.Round(time.Second))
	if took > bound || took == 0 {
		t.Errorf("it took %s, the bound is %s", took, bound)
	}
	d.client.want(0, "ledger", "verify")
}

// A donor that signs two receipts with one number takes nothing by it, is
// blocked, and stays so.
func TestDonorThatSignsTwice(t *testing.T) {
	t.Parallel()
	d := newCheated(t, "donor", "sign twice")
	blocked := func() bool { w := d.client.wallet(); return len(w.Peers) == 1 && w.Peers[0].Blocked }
	d.client.eventually("it is blocked", blocked)
	took, did := d.client.wallet().Spent, d.metered()
	t.Logf("a donor that signs twice took %s beyond what it did, the bound is 0 ATP; it did %s and was paid %s", max(0, took-did), did, took)
	if took > did || took == 0 {
		t.Errorf("it did %s and was paid %s", did, took)
	}
	d.unload()
	d.restart(d.client)
	out := d.client.relay(d.client.client(d.client.mesh(), "asker"), "work", patience/2)
	if out.Code == "" || out.Executed != "no" {
		t.Errorf("a call of it: %+v", out)
	}
	contains(t, d.client.want(0, "wallet").out, "blocked: it cheated")
	contains(t, d.client.want(0, "wallet", "history").out, " block ")
	d.client.want(0, "ledger", "verify")
	if w := d.client.wallet(); w.Spent != took || !blocked() {
		t.Errorf("behind it: %+v", w)
	}
}

// A donor that shows receipts again that were settled is paid for what it did,
// and nothing twice.
func TestDonorThatShowsReceiptsAgain(t *testing.T) {
	t.Parallel()
	d := newCheated(t, "donor", "show again")
	d.client.eventually("it has shown some again", func() bool { w := d.client.wallet(); return len(w.Peers) == 1 && w.Peers[0].Receipts >= 5 })
	d.unload()
	d.restart(d.client) // who was shown an old receipt has ended the session
	d.load()
	before := d.client.wallet().Spent
	d.client.eventually("later work is paid", func() bool { return d.client.wallet().Spent > before })
	d.unload()
	d.agree()
	took, did := d.client.wallet().Spent, d.metered()
	t.Logf("a donor that shows receipts again took %s beyond what it did, the bound is 0 ATP; it did %s and was paid %s", max(0, took-did), did, took)
	if took > did {
		t.Errorf("it did %s and was paid %s", did, took)
	}
}
