package jsonledger_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/plugins/ledger-json/jsonledger"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

func openIn(t testing.TB, dir string) (sdk.Ledger, sdk.Head, error) {
	t.Helper()
	c, err := plugin.Pipe(t.Context(), jsonledger.Plugin(), plugin.Options{State: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Kill() })
	l, err := c.Ledger()
	if err != nil {
		t.Fatal(err)
	}
	head, err := l.Open(t.Context())
	return l, head, err
}

func TestOneProcessHasTheBook(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := openIn(t, dir); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openIn(t, dir); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("a second one: %v, want unavailable", err)
	}
}

// A disk of 256 KiB is filled by the book and by another file. When that goes
// away, the same ledger works again.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not root: can not mount a small disk")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skip("can not mount a small disk:", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 128<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	l, _, err := openIn(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	head, r, n := sdk.Head{}, rand.New(rand.NewPCG(1, 1)), 0
	add := func() (err error) {
		next, err := l.Append(t.Context(), head, []sdk.Record{record(r, n)})
		if n++; err == nil {
			head = next
		}
		return err
	}
	for err = add(); err == nil; err = add() {
	}
	begin := time.Now()
	for refused := 0; refused < 5; err = add() { // a smaller record may still fit
		if err != nil {
			refused++
		}
		if err != nil && sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Fatalf("on a full disk: %v, want unavailable", err)
		}
	}
	t.Logf("full at record %d; five refusals took %v", head.Seq, time.Since(begin))
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err := add(); err != nil {
			t.Fatalf("with space again: %v", err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if report, err := jsonledger.Verify(t.Context(), root); err != nil || report.Head != head {
		t.Errorf("verify: %v, %v, want %v", report.Head.Seq, err, head.Seq)
	}
}

// The format, to the byte: books of today are read by every later version.
func TestGolden(t *testing.T) {
	s := shelf{}
	l := jsonledger.NewOn(jsonledger.DefaultConfig(), s)
	_, err := l.Open(t.Context())
	_, err2 := l.Append(t.Context(), sdk.Head{}, []sdk.Record{{
		ID: sdk.RecordID{1, 2, 15: 255}, Body: []byte("hi"),
		Postings: []sdk.Posting{{Account: `a"\b`, Amount: 5}, {Account: "reserved/1", Amount: -5}},
	}})
	if err := errors.Join(err, err2, l.Close()); err != nil {
		t.Fatal(err)
	}
	for name, b := range s {
		want, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil || string(want) != string(b) {
			t.Errorf("%s is\n%s\nwant\n%s%v", name, b, want, err)
		}
	}
}
