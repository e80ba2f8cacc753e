package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// keptBook makes a book of n records, as a kernel's plugin does, and returns
// where it is.
func keptBook(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	c, err := plugin.Pipe(t.Context(), builtins()["ledger-json"], plugin.Options{State: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Kill()
	l, err := c.Ledger()
	if err != nil {
		t.Fatal(err)
	}
	head, err := l.Open(t.Context())
	for i := range n {
		if err != nil {
			break
		}
		r := sdk.Record{Body: []byte("any"), Postings: []sdk.Posting{{Account: "self", Amount: 7}, {Account: "peer/a", Amount: -7}}}
		binary.BigEndian.PutUint64(r.ID[:], uint64(1_700_000_000_000+i)<<16)
		head, err = l.Append(t.Context(), head, []sdk.Record{r})
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// command runs a command line in this process.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = newApp(strings.NewReader(""), &out, &errs).run(t.Context(), args)
	return code, out.String(), errs.String()
}

func TestLedgerVerify(t *testing.T) {
	dir := keptBook(t, 20)
	if code, out, errs := command(t, "ledger", "verify", dir); code != exitOK || !strings.HasPrefix(out, "ok: 20 records in 1 segments") {
		t.Errorf("a sound book: exit code %d, %s%s", code, out, errs)
	}
	segment := filepath.Join(dir, "00000000000000000001.jsonl")
	b, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte(`{"seq":12,`))
	bad := bytes.Clone(b)
	bad[at+20] ^= 1
	if err := os.WriteFile(segment, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, _ := command(t, "ledger", "verify", dir, "-o", "json")
	var v verdict
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != exitFailed || v.OK || v.Records != 11 || v.Byte != int64(at) || v.File != filepath.Base(segment) {
		t.Errorf("byte %d changed: exit code %d, %s, %v", at+20, code, out, err)
	}
	code, out, _ = command(t, "ledger", "verify", dir)
	if code != exitFailed || !strings.HasPrefix(out, "DAMAGED: 00000000000000000001.jsonl, byte ") || !strings.Contains(out, "behind record 11: ") {
		t.Errorf("for people: exit code %d, %s", code, out)
	}
	if now, err := os.ReadFile(segment); err != nil || !bytes.Equal(now, bad) {
		t.Errorf("it was changed (%v)", err)
	}
}

// No book is not an empty one.
func TestLedgerVerifyFindsNothing(t *testing.T) {
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		if code, out, errs := command(t, "ledger", "verify", dir); code != exitNotFound || out != "" {
			t.Errorf("exit code %d, %s%s", code, out, errs)
		}
	}
}
