package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/kernel/wallet"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// newNode is a key, and the id of who has it.
func newNode(name string) (ed25519.PrivateKey, sdk.NodeID) {
	key := ed25519.NewKeyFromSeed([]byte(strings.Repeat(name, ed25519.SeedSize)[:ed25519.SeedSize]))
	return key, sdk.FormatNodeID(key.Public().(ed25519.PublicKey))
}

// dealt are n receipts of a payer and a payee, with both signatures.
func dealt(n int) (list []books.Signed, jobs [][]books.Job) {
	payer, from := newNode("payer")
	payee, to := newNode("payee")
	var last books.Receipt
	for i := range n {
		bill := []books.Job{books.NewJob(books.Job{From: "visitor", Cell: "worker", Method: "Worker.Work", Calls: 2, CPU: 500, Source: "cgroup2"}, 1000)}
		last = books.Receipt{
			Payer: from, Payee: to, Epoch: 1, Seq: uint64(i + 1), CPU: last.CPU + 500, Amount: last.Amount + 500, Calls: last.Calls + 2,
			Jobs: books.Root(bill), Prev: last.Hash(),
		}
		signed := append([]byte(books.Statement), last.Bytes()...)
		s := books.Signed{Receipt: last, PayeeSig: books.Signature(ed25519.Sign(payee, signed)), PayerSig: books.Signature(ed25519.Sign(payer, signed))}
		list, jobs = append(list, s), append(jobs, bill)
	}
	return list, jobs
}

// keptBook makes the payer's book of n receipts, as a kernel's plugin does, and
// returns where it is.
func keptBook(t testing.TB, n int) string {
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
	if err != nil {
		t.Fatal(err)
	}
	_, self := newNode("payer")
	b, now := books.New(self), time.UnixMilli(1_700_000_000_000)
	list, jobs := dealt(n)
	var batch []sdk.Record
	book := func(op books.Op) {
		var random [10]byte
		binary.BigEndian.PutUint64(random[:], b.Head().Seq)
		rec, _, e := b.Make(now, books.NewID(now, random), op)
		if e != nil {
			t.Fatal(e)
		}
		batch = append(batch, *rec)
	}
	for i := range list {
		book(books.Reserve{Peer: list[i].Payee, Amount: 500, Limit: 1 << 50})
		book(books.Countersign{Signed: list[i], List: jobs[i]})
		if len(batch) < sdk.MaxBatch && i < n-1 && n > 100 {
			continue
		}
		if head, err = l.Append(t.Context(), head, batch); err != nil {
			t.Fatal(err)
		}
		batch, now = batch[:0], now.Add(time.Hour)
	}
	return dir
}

// command runs a command line in this process.
func command(t testing.TB, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = newApp(strings.NewReader(""), &out, &errs).run(t.Context(), args)
	return code, out.String(), errs.String()
}

func TestLedgerVerify(t *testing.T) {
	dir := keptBook(t, 10)
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
	var v bookVerdict
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != exitFailed || v.OK || v.Records != 11 || v.Byte != int64(at) || v.File != filepath.Base(segment) {
		t.Errorf("byte %d changed: exit code %d, %s, %v", at+20, code, out, err)
	}
	code, out, _ = command(t, "ledger", "verify", dir)
	if code != exitFailed || !strings.HasPrefix(out, "DAMAGED: 00000000000000000001.jsonl, byte ") || !strings.Contains(out, "behind record 11: ") {
		t.Errorf("for people: exit code %d, %s", code, out)
	}
	if code, _, errs := command(t, "ledger", "export", dir); code != exitFailed || !strings.Contains(errs, "behind record 11") || !strings.Contains(errs, "a part of the book and ends with record 10") {
		t.Errorf("export: exit code %d, %s", code, errs)
	}
	if now, err := os.ReadFile(segment); err != nil || !bytes.Equal(now, bad) {
		t.Errorf("it was changed (%v)", err)
	}
}

// A copy that was cut short is told from a book behind a crash where that can be
// known: by its checkpoint.
func TestLedgerVerifyOfACopyThatWasCutShort(t *testing.T) {
	dir := keptBook(t, 10)
	segment := filepath.Join(dir, "00000000000000000001.jsonl")
	whole, err := os.ReadFile(segment)
	if err == nil {
		err = os.WriteFile(segment, whole[:len(whole)-100], 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	code, out, _ := command(t, "ledger", "verify", dir)
	if code != exitFailed || !strings.Contains(out, "it speaks of record 20, and the book ends before that: it, or this copy of it, has been cut short") {
		t.Errorf("exit code %d, %s", code, out)
	}
	code, out, errs := command(t, "ledger", "export", dir)
	if code != exitFailed || strings.Count(out, "\n") != 18 || !strings.Contains(errs, "a part of the book and ends with record 18") {
		t.Errorf("export: exit code %d, %d lines, %s", code, strings.Count(out, "\n"), errs)
	}
	if err := os.Remove(filepath.Join(dir, "mitochondria.json")); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := command(t, "ledger", "verify", dir); code != exitOK || !strings.Contains(out, "an append that is not whole: behind a crash") {
		t.Errorf("nothing says that there was more: exit code %d, %s%s", code, out, errs)
	}
	if code, _, errs := command(t, "ledger", "export", dir); code != exitOK || !strings.Contains(errs, "not whole are left out") {
		t.Errorf("export: exit code %d, %s", code, errs)
	}
}

// Sound bytes that no kernel has made are told from a book.
func TestLedgerVerifyKnowsTheRules(t *testing.T) {
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
	if err == nil {
		_, err = l.Append(t.Context(), head, []sdk.Record{{ID: sdk.RecordID{1}, Body: []byte("mint"), Postings: []sdk.Posting{{Account: "self", Amount: 7}, {Account: "mint", Amount: -7}}}})
	}
	if err != nil {
		t.Fatal(err)
	}
	if code, out, errs := command(t, "ledger", "verify", dir); code != exitFailed || !strings.HasPrefix(out, "WRONG behind record 0: ") {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
}

// No book is not an empty one.
func TestLedgerVerifyFindsNothing(t *testing.T) {
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		for _, what := range []string{"verify", "export"} {
			if code, out, errs := command(t, "ledger", what, dir); code != exitNotFound || out != "" {
				t.Errorf("%s: exit code %d, %s%s", what, code, out, errs)
			}
		}
	}
}

func TestLedgerExport(t *testing.T) {
	dir := keptBook(t, 3)
	code, out, errs := command(t, "ledger", "export", dir)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var e admin.Entry
	err := json.Unmarshal([]byte(lines[len(lines)-1]), &e)
	if code != exitOK || err != nil || len(lines) != 6 || e.Seq != 6 || e.What != "spend" || e.Amount != 500 || !e.Receipt.PayeeSigned || len(e.Body) == 0 {
		t.Errorf("exit code %d, %v, %s%s", code, err, out, errs)
	}
	code, out, errs = command(t, "ledger", "export", dir, "--format", "csv")
	rows, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	_, payee := newNode("payee")
	if code != exitOK || err != nil || len(rows) != 1+2*6 || rows[12][3] != "spend" || rows[12][6] != "spent/"+string(payee) || rows[12][7] != "500" {
		t.Errorf("exit code %d, %v, %q, %s", code, err, rows, errs)
	}
	if code, _, _ := command(t, "ledger", "export", dir, "--format", "xml"); code != exitUsage {
		t.Errorf("another format: exit code %d", code)
	}
}

func TestReceiptsOfSomebodyElse(t *testing.T) {
	list, jobs := dealt(3)
	file := wallet.File{Format: wallet.Format}
	for i := range list {
		job := admin.EntryJob{From: jobs[i][0].From, Cell: jobs[i][0].Cell, Method: jobs[i][0].Method, Calls: 2, CPU: 500, Meter: "cgroup2", Price: 1000, Amount: 500}
		file.Receipts = append(file.Receipts, wallet.FileReceipt{Signed: list[i].Bytes(), Jobs: []admin.EntryJob{job}})
	}
	path := filepath.Join(t.TempDir(), "receipts.json")
	verify := func() (int, string, string) {
		b, err := json.Marshal(file)
		if err == nil {
			err = os.WriteFile(path, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return command(t, "ledger", "verify", path)
	}
	if code, out, errs := verify(); code != exitOK || !strings.Contains(out, "0.015 ATP in all, for 1500 µs of CPU time and 6 calls; the chain is whole\nok: ") {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	file.Receipts[1].Jobs[0].CPU = 1
	if code, out, errs := verify(); code != exitFailed || !strings.Contains(out, "WRONG: receipt 2: its jobs are not those that were signed") {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := command(t, "ledger", "verify", path); code != exitUsage || !strings.Contains(errs, "format") {
		t.Errorf("no receipts: exit code %d, %s", code, errs)
	}
}

func TestParseATP(t *testing.T) {
	for s, want := range map[string]sdk.ATP{"36000": 36_000 * sdk.OneATP, "12.5": 1_250_000, "0": 0, "0.00001": 1, "7 ATP": 700_000} {
		if got, err := parseATP(s); err != nil || got != want {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "-1", "1e3", "1.000001", "+1", "ATP", ".5", "99999999999999999999", "1.2.3"} {
		if got, err := parseATP(s); err == nil {
			t.Errorf("%q: %v", s, got)
		}
	}
}

// BenchmarkVerifyMillion verifies a book of 1 000 000 records, rules included.
func BenchmarkVerifyMillion(b *testing.B) {
	dir := keptBook(b, 500_000)
	for b.Loop() {
		if code, out, errs := command(b, "ledger", "verify", dir); code != exitOK {
			b.Fatal(out, errs)
		}
	}
}
