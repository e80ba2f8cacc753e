package e2e_test

import (
	"testing"
	"time"
)

// Of two "up -d" at once one boots, and both return when all is ready.
func TestBothOfTwoDetachedUpsWait(t *testing.T) {
	t.Parallel()
	n := newNode(t, `
[cells.slow]
command = ["sleep", "1000"]
ready = { exec = ["test", "-e", "DIR/open"] }
start_timeout = "60s"
`)
	t.Cleanup(func() { n.ck("down") })
	winner := n.start("up", "-d")
	n.eventually("the kernel boots", func() bool { return n.ck("status").code == 1 })
	loser := n.start("up", "-d")
	select {
	case <-loser.ended:
		t.Errorf("the loser ended with %d before the cell was ready: %s", loser.cmd.ProcessState.ExitCode(), loser.err)
	case <-winner.ended:
		t.Errorf("the winner ended before the cell was ready: %s", winner.err)
	case <-time.After(time.Second): // an end that comes too early comes at once
	}
	n.write("open", "")
	<-winner.ended
	<-loser.ended
	if w, l := winner.cmd.ProcessState.ExitCode(), loser.cmd.ProcessState.ExitCode(); w != 0 || l != 0 {
		t.Errorf("exit codes %d and %d: %s\n%s", w, l, winner.err, loser.err)
	}
	n.want(0, "status")
	n.want(0, "down")
}
