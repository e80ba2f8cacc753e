package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/admin/admintest"
	"github.com/cellkernel/cellkernel/kernel/config"
	"github.com/cellkernel/cellkernel/sdk"
)

func TestEveryErrorHasItsExitCode(t *testing.T) {
	codes := map[sdk.Code]int{
		sdk.CodeOK: 0, sdk.CodeInternal: 1, sdk.CodeInvalid: 2, sdk.CodeNotFound: 4, sdk.CodeDenied: 6,
		sdk.CodeUnavailable: 5, sdk.CodeOverloaded: 1, sdk.CodeDeadline: 8, sdk.CodeCancelled: 130,
		sdk.CodeIncompatible: 1, sdk.CodeTooLarge: 1, sdk.CodeNoATP: 7, sdk.CodeFenced: 1, sdk.CodeApplication: 1,
	}
	for code, want := range codes {
		err := withHint(fmt.Errorf("call: %w", sdk.Errorf(code, "text")), "hint")
		if got := exitCode(err); got != want {
			t.Errorf("%v: got %d, want %d", code, got, want)
		}
	}
	for want, err := range map[int]error{
		0:   nil,
		1:   errors.New("any"),
		2:   usage(errors.New("any")),
		3:   bootError(config.Errors{{File: "genome.toml", Message: "wrong"}}),
		8:   context.DeadlineExceeded,
		42:  &exitError{42},
		130: errInterrupted,
	} {
		if got := exitCode(err); got != want {
			t.Errorf("%v: got %d, want %d", err, got, want)
		}
	}
	if got := exitCode(bootError(sdk.Errorf(sdk.CodeInvalid, "wrong"))); got != exitConfig {
		t.Errorf("invalid plan: got %d, want %d", got, exitConfig)
	}
}

func TestReportIsOneLineAndOneHint(t *testing.T) {
	var out bytes.Buffer
	a := newApp(nil, io.Discard, &out)
	inner := withHint(errors.New("dial \x1b[2J\u202e: refused\n"), "inner")
	a.report(withHint(fmt.Errorf("call: %w", inner), "outer"))
	if got, want := out.String(), "cellkernel: call: dial \ufffd[2J\ufffd: refused\nhint: inner\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	out.Reset()
	a.report(errInterrupted)
	a.report(&exitError{3})
	a.report(nil)
	if out.Len() > 0 {
		t.Errorf("got %q, want nothing", out.String())
	}
}

func TestLogsJoinTheirPieces(t *testing.T) {
	var out bytes.Buffer
	p := newLogPrinter(&out, false)
	rec := func(replica int, text string, partial bool) {
		r := admin.LogRecord{Name: "w", Replica: replica, Text: text, Partial: partial}
		if err := p.print(r); err != nil {
			t.Fatal(err)
		}
	}
	rec(1, "long ", true)
	rec(1, "line", false)
	rec(1, "cut", true)
	rec(2, "raw \x1b[2J", false) // no terminal: every byte as it was
	if got, want := out.String(), "w#1 | long line\nw#1 | cut\nw#2 | raw \x1b[2J\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTerminalsGetColourUnlessRefused(t *testing.T) {
	tty, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo terminal: %v", err)
	}
	defer tty.Close()
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	if !colourful(tty) || colourful(&bytes.Buffer{}) {
		t.Error("want colour on a terminal, and only there")
	}
	t.Setenv("NO_COLOR", "1")
	if colourful(tty) {
		t.Error("want no colour with NO_COLOR")
	}
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "dumb")
	if colourful(tty) {
		t.Error("want no colour on a dumb terminal")
	}
}

func TestScalesAreParsed(t *testing.T) {
	for _, c := range []struct {
		words []string
		want  []scale
	}{
		{[]string{"a", "2"}, []scale{{"a", 2}}},
		{[]string{"a=2"}, []scale{{"a", 2}}},
		{[]string{"a=2", "b=0"}, []scale{{"a", 2}, {"b", 0}}},
		{[]string{"a"}, nil},
		{[]string{"a", "2", "b"}, nil},
		{[]string{"a=2", "3"}, nil},
		{[]string{"a=99999999999999999999"}, nil},
	} {
		got, err := parseScales(c.words)
		if !slices.Equal(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("%q: got %v, %v, want %v", c.words, got, err, c.want)
		}
	}
}

func TestSizesAndTimesForPeople(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 12 << 20: "12 MiB", 5 << 40: "5.0 TiB", 1 << 62: "4194304 TiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d bytes: got %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0s", 1500 * time.Microsecond: "2ms", 2340 * time.Millisecond: "2.3s",
		61 * time.Second: "1m1s", 26*time.Hour + 3*time.Minute + 29*time.Second: "26h3m",
	} {
		if got := timeText(int64(d), time.Nanosecond); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}

func TestDetachedChildRunsTheSamePlan(t *testing.T) {
	p := admin.Plan{File: "/a/genome.toml", Overlays: []string{"/b.toml"}, Sets: []string{"x.y=[1, 2]"}, Cells: []string{"worker"}, NoDeps: true}
	got := detachedArgs(p)
	want := []string{"up", "--report-fd=3", "--overlay=/b.toml", "--set=x.y=[1, 2]", "--no-deps", "--", "/a/genome.toml", "worker"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWatchedShowsEveryEventUntilTheEnd(t *testing.T) {
	k := admintest.New()
	k.Journal.Publish(admin.Event{Kind: admin.EventNote, Time: time.Now().Add(-time.Hour), Text: "long ago"})
	const n = 40
	for range 20 { // events that come with the answer are those that could be lost
		var shown bytes.Buffer
		err := watched(t.Context(), k, newView(&shown), func(kind admin.EventKind) bool { return kind == admin.EventBuild }, func() error {
			for i := range n {
				k.Journal.Publish(admin.Event{Kind: admin.EventBuild, Text: fmt.Sprintf("cell %d", i)})
			}
			k.S.LastEvent = k.Journal.Last()
			return io.EOF
		})
		if lines := bytes.Count(shown.Bytes(), []byte("\n")); !errors.Is(err, io.EOF) || lines != n {
			t.Fatalf("%v, %d lines, want %d:\n%s", err, lines, n, shown.Bytes())
		}
	}
}

func TestKernelLinesThatEventsSayAreNotSaidTwice(t *testing.T) {
	for line, want := range map[string]bool{
		"level=INFO msg=ready process=worker#1 pid=7":                 true,
		`level=WARN msg=backoff process=worker#1 why="exit status 1"`: true,
		`level=WARN msg="refused a link" from=@ error="parse header"`: false,
		"level=WARN msg=drain replica=worker#1@3 error=deadline":      false,
		`level=ERROR msg="write log" error="no space left on device"`: false,
	} {
		if got := saidByEvents(line); got != want {
			t.Errorf("%s: got %v", line, got)
		}
	}
}
