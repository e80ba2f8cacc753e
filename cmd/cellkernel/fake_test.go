package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/admin/admintest"
	"github.com/cellkernel/cellkernel/sdk"
)

// startFake starts a fake kernel for dir in a process of its own and returns
// when it serves.
func startFake(dir, runtime string, flags ...string) (stop func(), err error) {
	cmd := exec.Command("fakekernel", append(flags, dir)...)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+runtime)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		stop()
		return nil, fmt.Errorf("start fake kernel: %q, %w", line, err)
	}
	return stop, nil
}

// fakeKernelMain serves a fake kernel: fakekernel [degraded] [changes] [stop] DIR.
func fakeKernelMain() {
	dir := os.Args[len(os.Args)-1]
	f := fakeFor(dir, os.Args[1:len(os.Args)-1])
	gone := make(chan struct{})
	f.OnDown = func() { close(gone) }
	stop, err := serveFake(f, dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("serving")
	<-gone
	stop()
}

// serveFake serves f where a kernel for dir would be found.
func serveFake(f *admintest.Fake, dir string) (stop func(), err error) {
	base := filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "cellkernel")
	if err := os.MkdirAll(base, 0o700); err != nil {
		return nil, err
	}
	run, err := os.MkdirTemp(base, "")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, ".cell"), 0o755); err != nil {
		return nil, err
	}
	link := filepath.Join(dir, runLink)
	_ = os.Remove(link)
	if err := os.Symlink(run, link); err != nil {
		return nil, err
	}
	return f.Serve(run)
}

func fakeFor(dir string, flags []string) *admintest.Fake {
	f := admintest.New()
	f.V.PID = os.Getpid()
	f.V.Genome = filepath.Join(dir, "genome.toml")
	f.V.Dirs = []string{dir, filepath.Join(dir, "member")}
	f.S.Version = f.V
	f.S.Cells = []admin.CellStatus{{Name: "worker", Want: 2, Ready: 2, State: admin.StateReady}}
	f.Settings = []admin.Setting{{Key: "golgi.links", Value: "8", Origin: "default"}}
	f.OnCall = fakeCall
	base := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for i, text := range []string{"first \x1b[2J", "second", "third"} {
		f.Records = append(f.Records, admin.LogRecord{Time: base.Add(time.Duration(i) * time.Minute),
			Kind: admin.KindCell, Name: "worker", Replica: i%2 + 1, Stream: "stderr", Text: text})
	}
	f.Draining = []admin.Event{{Seq: 1, Kind: admin.EventDrain, Waiting: []string{"worker#1 (2 calls)"}},
		{Seq: 2, Kind: admin.EventState, Process: &admin.Process{Kind: admin.KindCell, Name: "worker", Replica: 1, State: admin.StateStopped}}}
	f.Run = admin.Launch{Command: []string{"sh", "-c", "echo cell $CELLKERNEL_TOKEN; cat; exit 7"}, Dir: dir,
		Env: []string{"CELLKERNEL_SOCKET=/nowhere", "CELLKERNEL_TOKEN=secret"}}
	for _, flag := range flags {
		switch flag {
		case "mates":
			addMates(f)
		case "money":
			addMoney(f)
		case "degraded":
			f.S.State, f.S.Problems = admin.StateFailed, []string{`cell "worker": 1 of 2 ready`}
		case "changes":
			f.Changes = []admin.Change{{Op: "scale", Key: "cells.worker", Cell: "worker", From: "2", To: "4"}}
		case "invalid":
			f.Fail = map[string]error{"Apply": sdk.Errorf(sdk.CodeInvalid, "genome.toml:3:1: cells.worker.replicsa: unknown key")}
		}
	}
	return f
}

// fakeCall answers as the method's name says.
func fakeCall(ctx context.Context, r admin.CallRequest) (json.RawMessage, error) {
	codes := map[string]sdk.Code{"Deny": sdk.CodeDenied, "Pay": sdk.CodeNoATP, "Break": sdk.CodeApplication,
		"Lose": sdk.CodeUnavailable, "Mistake": sdk.CodeInvalid, "Busy": sdk.CodeOverloaded}
	switch code := codes[r.Method]; {
	case r.Method == "Echo":
		return append(append(json.RawMessage(`{"echo": `), r.Body...), " }"...), nil
	case r.Method == "Sleep":
		<-ctx.Done()
		return nil, ctx.Err()
	case code != sdk.CodeOK:
		return nil, sdk.Errorf(code, "refused by hand")
	}
	return nil, sdk.Errorf(sdk.CodeNotFound, "find method %q: no such method", r.Method)
}

// A fakeRunner boots as the file "boot" beside the genome says.
type fakeRunner struct {
	*admintest.Fake
	dir    string
	how    string
	stdout io.Writer
	down   chan struct{}
}

func bootFake(_ context.Context, o bootOptions) (runner, error) {
	dir := filepath.Dir(o.Genome.File)
	how, _ := os.ReadFile(filepath.Join(dir, "boot"))
	r := &fakeRunner{Fake: fakeFor(dir, nil), dir: dir, how: strings.TrimSpace(string(how)), stdout: o.Stdout, down: make(chan struct{})}
	r.OnDown = func() { close(r.down) }
	r.S.Cells = append(r.S.Cells, admin.CellStatus{Name: "report", Main: true})
	r.Records = []admin.LogRecord{
		{Time: time.Now().Add(time.Hour), Kind: admin.KindCell, Name: "worker", Replica: 1, Stream: "stdout", Text: "at work"},
		{Time: time.Now().Add(time.Hour), Kind: admin.KindCell, Name: "report", Replica: 1, Stream: "stdout", Text: "shown already"},
	}
	if r.how == "refuse" {
		return nil, errors.New("lock node: a kernel of another checkout runs")
	}
	return r, nil
}

// Logs ends with the kernel, as the contract wants.
func (r *fakeRunner) Logs(ctx context.Context, q admin.LogQuery, yield func(admin.LogRecord) error) error {
	q.Follow = false
	return r.Fake.Logs(ctx, q, yield)
}

// Down implements admin.Controller.
func (r *fakeRunner) Down(context.Context, admin.DownRequest, func(admin.Event) error) error {
	r.Journal.Publish(admin.Event{Kind: admin.EventDrain, Waiting: []string{"worker#1 (2 calls)"}})
	if r.how != "stuck" {
		close(r.down)
	}
	return nil
}

// Run implements runner.
func (r *fakeRunner) Run(ctx context.Context) (int, error) {
	defer r.Journal.Close()
	stop, err := serveFake(r.Fake, r.dir)
	if err != nil {
		return 0, err
	}
	defer stop()
	cell := &admin.CellStatus{Name: "worker", Want: 2, Ready: 2, State: admin.StateReady}
	r.Journal.Publish(admin.Event{Kind: admin.EventNote, Text: "no cgroup: metering by procfs"})
	if r.how == "fail" {
		return 0, errors.New(`start "worker": exit code 3`)
	}
	r.Journal.Publish(admin.Event{Kind: admin.EventState, Cell: cell, Process: &r.Procs[1]})
	r.Journal.Publish(admin.Event{Kind: admin.EventState, Cell: cell, Process: &r.Procs[2]})
	r.Journal.Publish(admin.Event{Kind: admin.EventReady, Text: "node desk-fake: this machine only"})
	fmt.Fprintln(r.stdout, "result 42")
	switch r.how {
	case "main":
		return 3, nil
	case "done":
		return 0, nil
	}
	select {
	case <-r.down:
		return 0, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}
