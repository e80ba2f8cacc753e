package supervisor

import (
	"os"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestNextLife(t *testing.T) {
	const never = -1 * time.Nanosecond
	always := policy{restart: RestartAlways}
	tests := []struct {
		what string
		p    policy
		o    outcome
		h    history
		want verdict
	}{
		{"boot fails", always, outcome{ready: never, reason: "exit status 3", exited: true}, history{},
			verdict{Failed, 0, "exit status 3 before it was ready"}},
		{"boot takes too long", always, outcome{ready: never, reason: "not ready within 1s"}, history{},
			verdict{Failed, 0, "not ready within 1s"}},
		{"a crash of one that served", always, outcome{ready: time.Minute, reason: "killed by SIGKILL"},
			history{}, verdict{Backoff, 0, "killed by SIGKILL"}},
		{"a crash soon after ready", always, outcome{ready: 0, reason: "r"}, history{failures: 2},
			verdict{Backoff, 200 * time.Millisecond, "r"}},
		{"a start that fails later", always, outcome{ready: never, reason: "r"}, history{proven: true},
			verdict{Backoff, 50 * time.Millisecond, "r"}},
		{"the cap", always, outcome{ready: never, reason: "r"}, history{proven: true, failures: 40},
			verdict{Backoff, 5 * time.Second, "r"}},
		{"always, even if it went well", always, outcome{ok: true, ready: time.Minute, reason: "exit status 0"},
			history{}, verdict{Backoff, 0, "exit status 0"}},
		{"on failure, it went well", policy{restart: RestartOnFailure}, outcome{ok: true, ready: time.Minute},
			history{}, verdict{state: Done}},
		{"on failure, it did not", policy{restart: RestartOnFailure}, outcome{ready: time.Minute, reason: "r"},
			history{}, verdict{Backoff, 0, "r"}},
		{"never", policy{restart: RestartNever}, outcome{ready: time.Minute, reason: "r"}, history{},
			verdict{Failed, 0, "r"}},
		{"never, it went well", policy{restart: RestartNever}, outcome{ok: true, ready: never}, history{},
			verdict{state: Done}},
		{"job", policy{restart: RestartAlways, job: true}, outcome{ok: true, ready: time.Minute}, history{},
			verdict{state: Done}},
		{"job that fails", policy{restart: RestartAlways, job: true}, outcome{ready: time.Minute, reason: "r"},
			history{}, verdict{Failed, 0, "r"}},
		{"job that may try again", policy{restart: RestartOnFailure, job: true}, outcome{ready: never, reason: "r"},
			history{}, verdict{Backoff, 50 * time.Millisecond, "r"}},
	}
	for _, tt := range tests {
		tt.o.at = t0
		if got := tt.h.next(tt.p, tt.o, 0.5); got != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.what, got, tt.want)
		}
	}
}

func TestBudget(t *testing.T) {
	p := policy{restart: RestartAlways}
	h := history{proven: true}
	now := t0
	end := func(after, ready time.Duration) verdict {
		now = now.Add(after)
		return h.next(p, outcome{at: now, ready: ready, reason: "r"}, 0.5)
	}
	for range 5 {
		if v := end(time.Second, time.Second); v.state != Backoff {
			t.Fatalf("within the budget: %+v", v)
		}
	}
	for range 20 { // also when the 30 s are over: nothing has become better
		v := end(31*time.Second, time.Second)
		if v.state == Backoff {
			break
		}
		if v.state != Crashloop || v.pause != crashloopPause || v.reason != "r; restart budget used up" {
			t.Fatalf("over the budget: %+v", v)
		}
	}
	h.looping = true
	if v := end(time.Minute, healthyAfter); v.state != Backoff || v.pause != 0 || len(h.restarts) != 1 {
		t.Fatalf("after a healthy life: %+v, %+v", v, h)
	}
}

func TestBudgetBoundsRestarts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Budget{
			Restarts: rapid.IntRange(1, 8).Draw(t, "restarts"),
			Within:   time.Duration(rapid.IntRange(1, 60).Draw(t, "within")) * time.Second,
		}
		p := policy{restart: RestartAlways, budget: b}
		h := history{proven: true}
		now := t0
		var prompt []time.Time // ends that were followed by a prompt restart
		for range 60 {
			life := time.Duration(rapid.IntRange(0, 29_999).Draw(t, "life")) * time.Millisecond
			now = now.Add(life)
			v := h.next(p, outcome{at: now, ready: life, reason: "r"}, rapid.Float64Range(0, 1).Draw(t, "random"))
			if v.state == Backoff {
				prompt = append(prompt, now)
				if v.pause > backoffCap*6/5 {
					t.Fatalf("pause %s", v.pause)
				}
			} else if v.state != Crashloop || v.pause < crashloopPause*4/5 {
				t.Fatalf("%+v", v)
			}
			now = now.Add(v.pause)
			if n := len(prompt); n > b.Restarts && prompt[n-1].Sub(prompt[n-1-b.Restarts]) < b.Within {
				t.Fatalf("%d restarts within %s, budget %+v", b.Restarts+1, prompt[n-1].Sub(prompt[n-1-b.Restarts]), b)
			}
		}
	})
}

func TestBackoffDoublesWithinItsSwing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 1<<40).Draw(t, "n")
		d := backoff(n, rapid.Float64Range(0, 1).Draw(t, "random"))
		want := backoffCap
		if n < 7 {
			want = backoffFirst << n
		}
		if d < want*4/5 || d > want*6/5 {
			t.Fatalf("backoff(%d) = %s, want %s give or take a fifth", n, d, want)
		}
	})
	if d := backoff(-1, 0.9); d != 0 {
		t.Errorf("backoff(-1) = %s", d)
	}
}

func TestLocateCgroup(t *testing.T) {
	const hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n" +
		"32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n" +
		"41 31 0:38 / /sys/fs/cgroup/unified rw shared:7 - cgroup2 cgroup2 rw\n"
	tests := []struct{ mounts, self, want, err string }{
		{hybrid, "4:memory:/x\n0::/\n", "/sys/fs/cgroup/unified", ""},
		{hybrid, "0::/user.slice/a b\n", "/sys/fs/cgroup/unified/user.slice/a b", ""},
		{"30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n", "0::/a/b\n", "/sys/fs/cgroup/a/b", ""},
		{`30 23 0:26 /a /mnt/my\040groups rw - cgroup2 cgroup rw` + "\n", "0::/a/b\n", "/mnt/my groups/b", ""},
		{"30 23 0:26 /other /x rw - cgroup2 cgroup rw\n", "0::/a/b\n", "", `no cgroup2 mount shows "/a/b"`},
		{"32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", "0::/\n", "", "no cgroup2 hierarchy is mounted"},
		{hybrid, "4:memory:/x\n", "", "this process is in no cgroup2 that is visible here"},
		{hybrid, "0::/../..\n", "", "this process is in no cgroup2 that is visible here"},
	}
	for _, tt := range tests {
		got, err := locateCgroup(tt.mounts, tt.self)
		if string(got) != tt.want || err == nil && tt.err != "" || err != nil && err.Error() != tt.err {
			t.Errorf("%q in %q: got %q, %v", tt.self, tt.mounts, got, err)
		}
	}
}

func TestMark(t *testing.T) {
	const environ = "A=1\x00CELLKERNEL_RUN=00aa.17\x00B=2\x00"
	for m, want := range map[mark]bool{
		runMark("00aa"): true, processMark("00aa", 17): true,
		runMark("00a"): false, processMark("00aa", 1): false, processMark("00aa", 170): false,
	} {
		if got := m.in([]byte(environ)); got != want {
			t.Errorf("%s: %t", m, got)
		}
	}
}

func TestReapWithoutProcessDescriptors(t *testing.T) {
	s, err := NewSpawner(SpawnerOptions{NoCgroup: true})
	if err != nil {
		t.Fatal(err)
	}
	proc, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "exit 6"}, &os.ProcAttr{
		Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{name: "x", spawner: s, proc: proc, exited: make(chan struct{})}
	p.reap()
	if e := p.Exit(); e.Code != 6 || e.Signal != 0 {
		t.Errorf("%s", e)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
