package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
)

// The laboratory of crashes and the adversaries are tests. Here they do all
// that there is to do, and not the part that fits among other tests.

// crashTests are the tests of a book that crashes, and what each says in the end.
var crashTests = []struct {
	id, env, test string
	least         float64
	said          *regexp.Regexp
}{
	{"crash-kills", "KILL_POINTS=1200", "TestKilledAtEveryCall", 1000, regexp.MustCompile(`(\d+) kill points: (.*)`)},
	{"crash-fails", "FAIL_POINTS=600", "TestAnyCallFails", 600, regexp.MustCompile(`(\d+) failures: (.*)`)},
	{"crash-power", "POWER_CUTS=5000", "TestPowerCuts", 5000, regexp.MustCompile(`(\d+) power cuts()`)},
	{"crash-bytes", "BYTES=65536", "TestEveryByte", 65536, regexp.MustCompile(`closed true: (\d+) bytes changed, (.*)`)},
	{"crash-zero", "BYTES=1", "TestUnreadableIsNotZero", 0, regexp.MustCompile(`--- (PASS)(): TestUnreadableIsNotZero`)},
}

func tryMoneyCrash(ctx context.Context, _ *lab.Lab, f findings) error {
	for _, c := range crashTests {
		out, err := goTest(ctx, []string{c.env}, "-run", "^"+c.test+"$", "-v", "-timeout", "40m", "./plugins/ledger-json/jsonledger")
		said := c.said.FindSubmatch(out)
		if err != nil || said == nil {
			f.add(c.id, false, "%s", strings.TrimSpace(fmt.Sprintf("%v: %s", err, out[max(0, len(out)-300):])))
			continue
		}
		n, err := strconv.ParseFloat(string(said[1]), 64)
		if err != nil && c.least > 0 {
			return err
		}
		f.add(c.id, n >= c.least, "%s %s", said[1], said[2])
	}
	return nil
}

// cheats are rows, and what the test of each has said of it.
var cheats = []struct{ id, said string }{
	{"cheat-silent", `a payer that signs nothing took (\S+ ATP, the bound is \S+ ATP)`},
	{"cheat-stopped", `(it did \S+ ATP that nobody signed, used .*)`},
	{"cheat-claims", `a donor that (did \S+ ATP and claimed ten times as much took \S+ ATP, the bound is .*)`},
	{"cheat-twice", `a donor that signs twice took (.*)`},
	{"cheat-replay", `a donor that shows receipts again took (.*)`},
}

func tryMoneyCheats(ctx context.Context, _ *lab.Lab, f findings) error {
	out, err := goTest(ctx, nil, "-run", "^(TestPayerThatSignsNothing|TestStoppedPayer|TestDonorThatClaimsMore|TestDonorThatSignsTwice|TestDonorThatShowsReceiptsAgain)$",
		"-v", "-parallel", "1", "-timeout", "20m", "./cmd/cellkernel/e2e")
	for _, c := range cheats {
		if m := regexp.MustCompile(c.said).FindSubmatch(out); m != nil {
			f.add(c.id, err == nil, "%s", m[1])
		}
	}
	return err
}

// tryMoneySwap exchanges the ledger's program under load.
func tryMoneySwap(ctx context.Context, _ *lab.Lab, f findings) error {
	out, err := goTest(ctx, nil, "-run", "^TestLedgerIsSwappedUnderLoad$", "-v", "-timeout", "10m", "./cmd/cellkernel/e2e")
	if m := regexp.MustCompile(`spent and earned: (.*)`).FindSubmatch(out); m != nil {
		f.add("ledger-swap", err == nil, "%s on either side", m[1])
	}
	return err
}

var million = regexp.MustCompile(`(\d+) records: verify (\S+), (\d+) MB; ready after (\S+)`)

// tryMillion has the command check a large book, and a kernel begin with it.
func tryMillion(ctx context.Context, _ *lab.Lab, f findings) error {
	out, err := goTest(ctx, []string{"RECORDS=1000000"}, "-run", "^TestManyRecords$", "-v", "-timeout", "20m", "./cmd/cellkernel/e2e")
	m := million.FindSubmatch(out)
	if err != nil || m == nil {
		return fmt.Errorf("%w: %s", err, out[max(0, len(out)-500):])
	}
	verify, err := time.ParseDuration(string(m[2]))
	if err != nil {
		return err
	}
	ready, err := time.ParseDuration(string(m[4]))
	if err != nil {
		return err
	}
	mb, err := strconv.Atoi(string(m[3]))
	f.add("million-verify", verify <= 10*time.Second && mb <= 200, "%s, %d MB for %s records", verify, mb, m[1])
	f.add("million-boot", ready <= 2*time.Second, "%s", ready)
	return err
}
