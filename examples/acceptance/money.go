package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
)

// moneyKills is how many kernels, ledgers and meters are killed.
const moneyKills = 200

// tryMoneyKills has the end-to-end test of two books kill much more than it
// does among the other tests. It ends with both wallets compared.
func tryMoneyKills(ctx context.Context, _ *lab.Lab, f findings) error {
	out, err := goTest(ctx, []string{"MONEY_KILLS=" + strconv.Itoa(moneyKills)},
		"-run", "^TestBooksAgreeWhateverIsKilled$", "-v", "-timeout", "60m", "./cmd/cellkernel/e2e")
	agreed := regexp.MustCompile(`the wallets agree: (\S+) \(bound`).FindSubmatch(out)
	sum := regexp.MustCompile(`spent and earned: (.*)`).FindSubmatch(out)
	if err != nil || agreed == nil || sum == nil {
		f.add("money-kills", false, "%v", err)
		f.add("money-agree", false, "see the test")
		return nil
	}
	took, err := time.ParseDuration(string(agreed[1]))
	if err != nil {
		return err
	}
	f.add("money-kills", true, "%s on either side", sum[1])
	f.add("money-agree", took <= 5*time.Second, "%s", took)
	return nil
}

var durable = regexp.MustCompile(`BenchmarkDurable/(\w+)\S*\s.*\s([\d.]+) p99-ms\s+([\d.]+) records/s`)

// tryMoneyLedger measures how fast records become durable.
func tryMoneyLedger(ctx context.Context, _ *lab.Lab, f findings) error {
	out, err := goTest(ctx, nil, "-run", "^$", "-bench", "Durable", "-benchtime", "5s", "./plugins/ledger-json/jsonledger")
	if err != nil {
		return err
	}
	rate, p99 := map[string]float64{}, map[string]float64{}
	for _, m := range durable.FindAllSubmatch(out, -1) {
		name := string(m[1])
		if p99[name], err = strconv.ParseFloat(string(m[2]), 64); err == nil {
			rate[name], err = strconv.ParseFloat(string(m[3]), 64)
		}
		if err != nil {
			return err
		}
	}
	if len(rate) != 2 {
		return fmt.Errorf("run the benchmark of the ledger: %s", out)
	}
	f.add("ledger-rate", rate["group"] >= 2000, "%.0f; one sync a record: %.0f", rate["group"], rate["single"])
	f.add("ledger-p99", p99["group"] <= 25, "%.1f ms", p99["group"])
	return nil
}

// goTest runs tests of this checkout.
func goTest(ctx context.Context, env []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-count=1"}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = time.Minute
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("go test: %w: %s", err, out[max(0, len(out)-2000):])
	}
	return out, err
}
