package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
	"github.com/cellkernel/cellkernel/examples/acceptance/probe"
)

const (
	sampleTime  = 6 * time.Second // of bystanders' calls, before an attack and during it
	lookPause   = 50 * time.Millisecond
	linesWithin = 5 * time.Second // until the log has what it is to say
	hangs       = 64              // calls of a handler that never returns
	hangTime    = time.Second     // their deadline
	smallDisk   = 1 << 20         // bytes for logs
	hostileMore = 64 << 20        // bytes that an attack may cost
)

// loud is a cell that writes without end, once it is told to.
const loud = `
[cells.loud]
command = ["BIN/target"]
`

// An attack is a way to hurt, and what the log must say of it.
type attack struct {
	id   string
	do   func(ctx context.Context, k *lab.Kernel, l *lab.Lab) (lines int, err error) // that the log is to have
	log  []string                                                                    // arguments of logs
	want []string                                                                    // in each line
	disk int64                                                                       // for logs; 0: no bound
}

func attacks() []attack {
	return []attack{
		{id: "hostile-length", do: hurt("length"), log: []string{"target"}, want: []string{"link ended", "cell=rogue"}},
		{id: "hostile-garbage", do: hurt("garbage"), log: []string{"target"}, want: []string{"link ended", "cell=rogue"}},
		{id: "hostile-early", do: hurt("early"), log: []string{"target"}, want: []string{"link ended", "cell=rogue", "before settings"}},
		{id: "hostile-split", do: hurt("split"), log: []string{"target"}, want: []string{"link ended", "cell=rogue", "inside the request of call 8"}},
		{id: "hostile-slow", do: hurt("slow"), log: []string{"target"}, want: []string{"link ended", "cell=rogue", "no settings within"}},
		{id: "hostile-handler", do: hang, log: []string{"target"}, want: []string{"handler goes on", "Target.Hang", "cell=load"}},
		{id: "hostile-flood", do: shout, log: []string{"kernel"}, want: []string{"loud#1", "is slowed down"}},
		{id: "hostile-disk", do: shout, log: []string{"kernel"}, want: []string{"cell-loud.log", "not stored", "no space left"}, disk: smallDisk},
	}
}

func tryHostile(ctx context.Context, l *lab.Lab, f findings) error {
	for _, a := range attacks() {
		if err := a.try(ctx, l, f); err != nil {
			return fmt.Errorf("%s: %w", a.id, err)
		}
	}
	return nil
}

// try boots a kernel, samples a bystander's calls, attacks while it samples
// them again, and reads the log.
func (a attack) try(ctx context.Context, l *lab.Lab, f findings) error {
	dir, err := l.Write(a.id, victims+loud)
	if err != nil {
		return err
	}
	if a.disk > 0 {
		free, err := mountLogs(dir, a.disk)
		if err != nil {
			f.add(a.id, false, "cannot be tried here: %v", err)
			return nil
		}
		defer free()
	}
	k, err := l.BootDir(ctx, dir)
	if err != nil {
		return err
	}
	calm, err := sampleSpare(ctx, k)
	if err != nil {
		return err
	}
	before, err := residents(ctx, k)
	if err != nil {
		return err
	}
	pressed, most, lines, err := a.press(ctx, k, l)
	if err != nil {
		return err
	}
	found, err := a.lines(ctx, k, lines)
	if err != nil {
		return err
	}
	slower := pressed.P99US / max(calm.P99US, 1)
	ok := most-before <= hostileMore && slower <= 2 && pressed.Errors == 0 && found == lines
	f.add(a.id, ok, "%d KiB, %.2f x (%.0f us, then %.0f us, %d of %d calls failed), %d lines for %d",
		(most-before)>>10, slower, calm.P99US, pressed.P99US, pressed.Errors, pressed.Calls, found, lines)
	k.Kill() // a handler that never returns would hold up its end
	_, err = leftAfter(ctx, l, crashWithin)
	return err
}

// press attacks while a bystander's calls are sampled and memory is watched.
func (a attack) press(ctx context.Context, k *lab.Kernel, l *lab.Lab) (t *probe.Times, most int64, lines int, err error) {
	type done struct {
		lines int
		err   error
	}
	attacked := make(chan done, 1)
	go func() {
		n, err := a.do(ctx, k, l)
		attacked <- done{n, err}
	}()
	watching, stop := context.WithCancel(ctx)
	watched := make(chan int64, 1)
	go func() { watched <- mostResident(watching, k) }()
	t, err = sampleSpare(ctx, k)
	d := <-attacked
	stop()
	most = <-watched
	if err == nil {
		err = d.err
	}
	if err == nil && most == 0 {
		err = fmt.Errorf("watch memory: nothing was seen")
	}
	return t, most, d.lines, err
}

// hurt runs the rogue, all of whose links must be ended.
func hurt(way string) func(context.Context, *lab.Kernel, *lab.Lab) (int, error) {
	return func(ctx context.Context, k *lab.Kernel, l *lab.Lab) (int, error) {
		out, err := rogue(ctx, k, l, "hurt", "target", way)
		if err != nil {
			return 0, err
		}
		var x struct{ Links, Ended int }
		if err := json.Unmarshal([]byte(out), &x); err != nil {
			return 0, fmt.Errorf("read what rogue did: %w", err)
		}
		if x.Links == 0 || x.Ended != x.Links {
			return 0, fmt.Errorf("%d of %d links were ended", x.Ended, x.Links)
		}
		return x.Links, nil
	}
}

// hang has a handler never return. All calls come over one link: one line.
func hang(ctx context.Context, k *lab.Kernel, _ *lab.Lab) (int, error) {
	return 1, k.Call(ctx, "load.Hang", probe.Plan{Cell: "target", Rate: hangs, DeadlineMS: uint32(hangTime.Milliseconds())}, &probe.None{})
}

// shout has the loud cell write.
func shout(ctx context.Context, k *lab.Kernel, _ *lab.Lab) (int, error) {
	return 1, k.Call(ctx, "loud.Shout", probe.None{}, &probe.None{})
}

// mountLogs puts a small file system where the logs of a genome in dir go.
func mountLogs(dir string, size int64) (free func(), err error) {
	logs := filepath.Join(dir, ".cell", "logs")
	if err := os.MkdirAll(logs, 0o700); err != nil {
		return nil, err
	}
	if err := unix.Mount("tmpfs", logs, "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", size)); err != nil {
		return nil, fmt.Errorf("mount a small disk: %w", err)
	}
	return func() { _ = unix.Unmount(logs, unix.MNT_DETACH) }, nil // removed with the lab
}

// mostResident watches the memory of kernel and cells until ctx is done.
func mostResident(ctx context.Context, k *lab.Kernel) (most int64) {
	pids, err := watchedPIDs(ctx, k)
	if err != nil {
		return 0
	}
	for {
		if sum, err := resident(pids); err == nil {
			most = max(most, sum)
		}
		if pause(ctx, lookPause) != nil {
			return most
		}
	}
}

// residents returns the memory of the kernel and of the target.
func residents(ctx context.Context, k *lab.Kernel) (int64, error) {
	pids, err := watchedPIDs(ctx, k)
	if err != nil {
		return 0, err
	}
	return resident(pids)
}

// watchedPIDs are the kernel's and the target's: those who are hurt.
func watchedPIDs(ctx context.Context, k *lab.Kernel) (pids []int, err error) {
	list, err := k.PS(ctx)
	for _, p := range list {
		if p.Kind == "kernel" || p.Name == "target" {
			pids = append(pids, p.PID)
		}
	}
	return pids, err
}

func resident(pids []int) (sum int64, err error) {
	for _, pid := range pids {
		rss, err := lab.RSS(pid)
		if err != nil {
			return 0, err
		}
		sum += rss
	}
	return sum, nil
}

// sampleSpare times calls to a cell that nobody hurts.
func sampleSpare(ctx context.Context, k *lab.Kernel) (*probe.Times, error) {
	t := new(probe.Times)
	return t, k.Call(ctx, "load.Sample", probe.Plan{Cell: "spare", DeadlineMS: uint32(sampleTime.Milliseconds())}, t)
}

// lines counts the lines that name the culprit. It waits for as many as are
// due, and then a moment for one too many.
func (a attack) lines(ctx context.Context, k *lab.Kernel, due int) (n int, err error) {
	for end := time.Now().Add(linesWithin); ; {
		r, err := k.Command(ctx, append([]string{"logs"}, a.log...)...)
		if err != nil {
			return 0, err
		}
		if n = countLines(r.Stdout, a.want); n >= due || time.Now().After(end) {
			return n, nil
		}
		if err := pause(ctx, lookPause); err != nil {
			return 0, err
		}
	}
}

func countLines(text string, words []string) (n int) {
	for line := range strings.Lines(text) {
		if contains(line, words...) {
			n++
		}
	}
	return n
}
