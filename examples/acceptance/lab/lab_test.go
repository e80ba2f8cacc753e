package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// bare is a lab without anything built.
func bare(t *testing.T) *Lab {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &Lab{Dir: dir}
}

func TestOnlyTheLabsProcessesAreFound(t *testing.T) {
	l := bare(t)
	b, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Skip("no sleep to copy: ", err)
	}
	program := filepath.Join(l.Dir, "sleeper")
	if err := os.WriteFile(program, b, 0o755); err != nil {
		t.Fatal(err)
	}
	ours, other := exec.Command(program, "60"), exec.Command("/bin/sleep", "60")
	for _, cmd := range []*exec.Cmd{ours, other} {
		cmd.Args[0] = "sleep" // programs with many names look at it
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	}
	list, err := l.Processes()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].PID != ours.Process.Pid {
		t.Fatalf("got %v, want process %d alone", list, ours.Process.Pid)
	}
	k := &Kernel{lab: l}
	if err := k.Signal(Process{PID: other.Process.Pid}, syscall.SIGKILL); err == nil {
		t.Error("a process of somebody else was signalled")
	}
	if err := (Live{PID: other.Process.Pid, Path: program}).signal(syscall.SIGKILL); err == nil {
		t.Error("a process that runs something else was signalled")
	}
	if err := k.Signal(Process{PID: ours.Process.Pid}, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if n, err := Descriptors(os.Getpid()); err != nil || n < 3 {
		t.Errorf("descriptors: %d, %v", n, err)
	}
	if n, err := RSS(os.Getpid()); err != nil || n < 1<<20 {
		t.Errorf("memory: %d, %v", n, err)
	}
	if m, err := MemoryOf(os.Getpid()); err != nil || m.Anon < 1<<20 || m.File < 1<<20 || m.All < m.Anon+m.File {
		t.Errorf("memory by kind: %+v, %v", m, err)
	}
	if _, err := CPU(os.Getpid()); err != nil {
		t.Error(err)
	}
}

func TestTailSeesText(t *testing.T) {
	var w tail
	early := w.saw("two words")
	if _, err := w.Write([]byte("one, two ")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-early:
		t.Fatal("seen before it came")
	default:
	}
	if _, err := w.Write([]byte("words")); err != nil {
		t.Fatal(err)
	}
	<-early
	<-w.saw("one,")
	if _, err := w.Write(make([]byte, 2*maxOutput)); err != nil {
		t.Fatal(err)
	}
	if n := len(w.String()); n > maxOutput {
		t.Errorf("%d bytes are kept", n)
	}
}

func TestGenomesNameTheBuiltPrograms(t *testing.T) {
	l := bare(t)
	dir, err := l.Write("x", `command = ["BIN/target"]`)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "genome.toml"))
	if err != nil || !strings.Contains(string(b), l.Dir+"/bin/target") {
		t.Errorf("got %q, %v", b, err)
	}
	for _, e := range l.environ() {
		if strings.HasPrefix(e, "CELLKERNEL_") {
			t.Errorf("environment has %s", e)
		}
	}
}
