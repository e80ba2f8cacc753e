package main

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
)

const (
	crashes     = 30
	crashWithin = 2 * time.Second
)

const nasty = `
[cells.nasty]
command = ["BIN/nasty"]
ready   = { exec = ["true"] }

[cells.target]
command  = ["BIN/target"]
replicas = 2
`

func tryCrash(ctx context.Context, l *lab.Lab, f findings) error {
	dir, err := l.Write("crash", nasty)
	if err != nil {
		return err
	}
	left, clean := 0, 0
	var posture string
	for i := range crashes + 1 {
		k, err := l.BootDir(ctx, dir)
		if err != nil {
			f.add("crash-next", false, "%d of %d: %v", clean, crashes, err)
			return nil
		}
		posture = k.Stderr()
		if err := children(ctx, l); err != nil {
			return err
		}
		clean += min(i, 1) // a boot that follows a crash
		k.Kill()
		n, err := leftAfter(ctx, l, crashWithin)
		if err != nil {
			return err
		}
		left += n
	}
	with, without := strings.Contains(posture, "CPU metered by cgroup2"), strings.Contains(posture, "no cgroup for the cells")
	f.add("crash-left", left == 0 && with != without, "%d (%s)", left, map[bool]string{true: "with a cgroup", false: "no cgroup here, and up said so"}[with])
	f.add("crash-next", clean == crashes, "%d of %d", clean, crashes)
	return nil
}

// children waits until the nasty cell has its children: without them nothing
// would be tried.
func children(ctx context.Context, l *lab.Lab) error {
	for end := time.Now().Add(crashWithin); ; {
		live, err := l.Processes()
		if err != nil {
			return err
		}
		n := 0
		for _, p := range live {
			if filepath.Base(p.Path) == "nasty" {
				n++
			}
		}
		if n == 3 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("crash kernel: %d processes of the nasty cell, want 3", n)
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// leftAfter waits until nothing of the lab runs any more, at most so long, and
// returns what does.
func leftAfter(ctx context.Context, l *lab.Lab, within time.Duration) (int, error) {
	end := time.Now().Add(within)
	for {
		live, err := l.Processes()
		if err != nil || len(live) == 0 || time.Now().After(end) {
			return len(live), err
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

const prebuilt = `
[workspace]
main = "visitor"

[cells.greeter]
command = ["/bin/greeter"]

[cells.visitor]
command = ["/bin/visitor"]
args    = ["world"]
job     = true

[cells.visitor.axons]
greeter = "axon://greeter"
`

func tryStatic(ctx context.Context, l *lab.Lab, f findings) error {
	file, err := elf.Open(l.Command)
	if err != nil {
		return fmt.Errorf("read program: %w", err)
	}
	defer file.Close()
	static := true
	for _, p := range file.Progs {
		static = static && p.Type != elf.PT_INTERP
	}
	f.add("static-linked", static, "%v", static)
	if os.Geteuid() != 0 {
		f.add("static-boot", false, "cannot be tried here: chroot needs root")
		return nil
	}
	root := filepath.Join(l.Dir, "root")
	if err := empty(l, root); err != nil {
		return err
	}
	proc := filepath.Join(root, "proc")
	if err := unix.Mount("proc", proc, "proc", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", proc, err)
	}
	defer func() { _ = unix.Unmount(proc, unix.MNT_DETACH) }() // removed with the lab
	r, err := l.Chroot(ctx, root, "/cellkernel", "up", "/genome.toml")
	if err != nil {
		return err
	}
	ok := r.Code == 0 && strings.HasPrefix(r.Stdout, "hello, world")
	f.add("static-boot", ok, "exit code %d, %q %s", r.Code, strings.TrimSpace(r.Stdout), lastLine(r.Stderr, !ok))
	return nil
}

// empty makes a root directory with nothing but three programs and a genome,
// and the places where a container has its file systems.
func empty(l *lab.Lab, root string) error {
	for _, dir := range []string{"bin", "proc", "dev", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return fmt.Errorf("make root: %w", err)
		}
	}
	if err := os.Chmod(filepath.Join(root, "tmp"), 0o1777|os.ModeSticky); err != nil {
		return fmt.Errorf("make root: %w", err)
	}
	null := filepath.Join(root, "dev", "null")
	if err := unix.Mknod(null, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		return fmt.Errorf("make %s: %w", null, err)
	}
	for from, to := range map[string]string{"cellkernel": "cellkernel", "greeter": "bin/greeter", "visitor": "bin/visitor"} {
		if err := os.Link(l.Bin(from), filepath.Join(root, to)); err != nil {
			return fmt.Errorf("make root: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "genome.toml"), []byte(prebuilt), 0o644); err != nil {
		return fmt.Errorf("make root: %w", err)
	}
	return nil
}

func lastLine(s string, show bool) string {
	if !show {
		return ""
	}
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
