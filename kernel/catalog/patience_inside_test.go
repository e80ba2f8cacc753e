package catalog

import (
	"os"
	"testing"
)

func TestWhoComputesIsGivenMoreTime(t *testing.T) {
	for _, c := range []struct {
		pings string // a: answered, c: missed while it computed, -: missed while it did nothing
		hung  int    // at which of them, from 1; 0 is never
	}{
		{"a--", 3}, {"--", 2}, {"c--", 3}, {"c-c-", 4}, {"cccccc", busyMisses}, {"ccccacccca-a-", 0},
	} {
		var p patience
		hung := 0
		for i, ping := range c.pings {
			if ping == 'a' {
				p.answered()
			} else if p.missed(ping == 'c') && hung == 0 {
				hung = i + 1
			}
		}
		if hung != c.hung {
			t.Errorf("%s: given up at %d, want %d", c.pings, hung, c.hung)
		}
	}
}

func TestCPUOfThisProcessGrows(t *testing.T) {
	before, x := cpuOf(os.Getpid()), 0
	for cpuOf(os.Getpid()) <= before {
		for i := range 1 << 20 {
			x += i * i
		}
	}
	if cpuOf(1<<30) != 0 {
		t.Error("a process that is not there has computed")
	}
	_ = x
}
