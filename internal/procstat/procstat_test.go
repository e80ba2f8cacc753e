package procstat_test

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/internal/procstat"
)

func TestALineIsParsed(t *testing.T) {
	got, err := procstat.Parse("7 (a) (b c)) Z 5 0 0 0 0 0 0 0 0 0 1 2 3 4 0 0 0 0 77 0 9 0")
	want := procstat.Stat{State: 'Z', Parent: 5, Own: 30 * time.Millisecond, All: 100 * time.Millisecond, StartTime: 77, RSS: 9 * int64(os.Getpagesize())}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func FuzzLine(f *testing.F) {
	f.Add("7 (a) (b c)) Z 5 0 0 0 0 0 0 0 0 0 1 2 3 4 0 0 0 0 77 0 9 0")
	f.Add(") ")
	f.Fuzz(func(t *testing.T, line string) {
		if st, err := procstat.Parse(line); err == nil && st.State == 0 {
			t.Errorf("%q: no state and no error", line)
		}
	})
}

func TestAProcessIsRead(t *testing.T) {
	self, err := procstat.Read(os.Getpid())
	if err != nil || self.Parent != os.Getppid() || self.RSS == 0 || self.StartTime == 0 {
		t.Errorf("this process: got %+v, %v", self, err)
	}
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	child, err := procstat.Read(cmd.Process.Pid)
	if err != nil || child.Parent != os.Getpid() || child.StartTime < self.StartTime {
		t.Errorf("a child: got %+v, %v", child, err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if st, err := procstat.Read(cmd.Process.Pid); err == nil && st.StartTime == child.StartTime {
		t.Errorf("a child that is gone: got %+v", st)
	}
}
