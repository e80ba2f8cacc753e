package e2e_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/e2e/testdata/probe/api"
)

// lines returns what a cell wrote, as logs shows it, without time and name.
func (n *node) lines(args ...string) (lines []string) {
	n.t.Helper()
	for line := range strings.Lines(n.want(0, append([]string{"logs"}, args...)...).out) {
		_, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " | ")
		lines = append(lines, text)
	}
	return lines
}

// A cell that writes more than its share is slowed down, and not one line of
// it is lost, over the borders of files.
func TestFloodIsSlowedAndKept(t *testing.T) {
	t.Parallel()
	const total = 40_000
	n := newNode(t, fmt.Sprintf(`
[kernel]
log_rate = 1_000_000
log_size = 2_000_000
[cells.flood]
command = ["PROBE", "flood", "%d"]
ready = { exec = ["true"] }
[cells.bystander]
command = ["PROBE", "serve"]
`, total))
	k := n.up()
	rss := n.process("kernel").RSSBytes
	k.err.await(t, "flood#1 writes more than")
	n.want(0, "call", "bystander.Echo", "{}")
	k.err.await(t, "flooded for")
	var at int
	for _, line := range n.lines("flood") {
		if want := fmt.Sprintf("flood %08d xx", at); strings.HasPrefix(line, want) {
			at++
		} else if strings.HasPrefix(line, "flood ") {
			t.Fatalf("line %q, want %q", line, want)
		}
	}
	if at != total {
		t.Errorf("%d of %d lines are kept", at, total)
	}
	if grown := n.process("kernel").RSSBytes - rss; grown > 64<<20 {
		t.Errorf("the kernel has grown by %d bytes", grown)
	}
	files, err := os.ReadDir(n.path(".cell/logs"))
	if err != nil {
		t.Fatal(err)
	}
	rotated := 0
	for _, f := range files {
		if info, err := f.Info(); err == nil && strings.HasPrefix(f.Name(), "cell-flood") {
			rotated++
			if info.Size() > 2_000_000 {
				t.Errorf("%s has %d bytes", f.Name(), info.Size())
			}
		}
	}
	if rotated < 2 {
		t.Errorf("log files: %v, want some of the flood", files)
	}
}

func TestJunkInLogs(t *testing.T) {
	t.Parallel()
	n := newNode(t, "[cells.junk]\ncommand = [\"PROBE\", \"junk\"]\nready = { exec = [\"true\"] }\n")
	k := n.up()
	k.err.await(t, "junk ends here")
	out := n.want(0, "logs", "junk").out
	if !utf8.ValidString(out) || strings.ContainsFunc(out, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r == 0x7f }) {
		t.Error("logs shows bytes that are no text")
	}
	_, tail, _ := strings.Cut(out, "long line follows\n")
	long, end, _ := strings.Cut(tail, "\n")
	_, long, _ = strings.Cut(long, " | ")
	if len(long) != 10_000_000 || strings.Trim(long, "0123456789") != "" {
		t.Errorf("the long line has %d characters", len(long))
	}
	contains(t, end, "junk ends here")
	if r := n.process("kernel").RSSBytes; r > 256<<20 {
		t.Errorf("the kernel has grown to %d bytes", r)
	}
}

func TestLogsFollowSinceTail(t *testing.T) {
	t.Parallel()
	n := newNode(t, "[cells.w]\ncommand = [\"PROBE\", \"serve\"]\n[cells.other]\ncommand = [\"PROBE\", \"serve\"]\n")
	n.up()
	follow := n.start("logs", "-f", "w")
	follow.out.await(t, "serving w 1")
	n.want(0, "call", "w.Sleep", `{"ms":1}`)
	follow.out.await(t, "sleeping 1\n")
	between := time.Now().UTC().Add(time.Millisecond).Format(time.RFC3339Nano)
	n.eventually("the clock has moved on", func() bool { return time.Now().UTC().Format(time.RFC3339Nano) > between })
	n.want(0, "call", "w.Sleep", `{"ms":2}`)
	n.want(0, "call", "other.Sleep", `{"ms":3}`)
	follow.out.await(t, "sleeping 2\n")
	follow.signal(syscall.SIGINT)
	if code := follow.exit(); code != 130 {
		t.Errorf("an interrupted logs -f: exit code %d, want 130", code)
	}
	if text := follow.out.String(); strings.Contains(text, "other") || strings.Count(text, "sleeping") != 2 {
		t.Errorf("logs -f w showed:\n%s", text)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"w", "--tail", "2"}, "sleeping 1|sleeping 2"},
		{[]string{"w#1", "--since", between}, "sleeping 2"},
		{[]string{"other", "w", "--since", between}, "sleeping 2|sleeping 3"},
		{[]string{"w", "--since", "1h"}, "serving w 1|sleeping 1|sleeping 2"},
	} {
		if got := strings.Join(n.lines(c.args...), "|"); got != c.want {
			t.Errorf("logs %q: got %q, want %q", c.args, got, c.want)
		}
	}
	n.want(4, "logs", "nobody")
	contains(t, n.want(0, "logs", "w", "-o", "json", "--tail", "1").out, `"kind":"cell"`, `"name":"w"`, `"replica":1`, `"text":"sleeping 2"`)
}

// A full disk loses lines, counts them and says so; cells do not notice.
func TestFullDiskUnderLogs(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts a tiny file system")
	}
	t.Parallel()
	n := newNode(t, `
[cells.flood]
command = ["PROBE", "flood", "20000", "DIR/flooded"]
ready = { exec = ["true"] }
[cells.w]
command = ["PROBE", "serve"]
`)
	logs := n.path(".cell/logs")
	if err := os.MkdirAll(logs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", logs, "tmpfs", 0, "size=512k"); err != nil {
		t.Skipf("can not mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(logs, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	k := n.up()
	k.err.await(t, "log cell-flood.log is not stored: ")
	contains(t, k.err.String(), syscall.ENOSPC.Error())
	n.eventually("the flooding cell is through", func() bool { _, err := os.Stat(n.path("flooded")); return err == nil })
	// Another cell writes on, until the disk is full for it, too, and says so
	// again when it no longer is.
	w := n.client(n.mesh(), "w")
	writeUntil := func(text string) {
		n.eventually("the kernel says "+text, func() bool {
			for range 20 {
				if _, err := w.Sleep(n.ctx(), &api.Pause{}); err != nil {
					t.Fatal(err)
				}
			}
			return strings.Contains(k.err.String(), text)
		})
	}
	writeUntil("log cell-w.log is not stored: " + syscall.ENOSPC.Error())
	n.want(0, "status")
	if err := syscall.Mount("tmpfs", logs, "tmpfs", syscall.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
	writeUntil("log cell-w.log is stored again; ")
	contains(t, n.want(0, "logs", "w").out, "bytes) lost: "+syscall.ENOSPC.Error(), "sleeping 0")
	n.want(0, "status")
}
