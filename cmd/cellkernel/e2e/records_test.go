package e2e_test

import (
	"context"
	"crypto/ed25519"
	bits "encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// longBook writes n records of a node into dir, half of them receipts that it
// and a donor have signed.
func longBook(t *testing.T, dir string, self ed25519.PrivateKey, n int) {
	t.Helper()
	sign := func(key ed25519.PrivateKey, r books.Receipt) books.Signature {
		return books.Signature(ed25519.Sign(key, append([]byte(books.Statement), r.Bytes()...)))
	}
	node := func(key ed25519.PrivateKey) sdk.NodeID { return sdk.FormatNodeID(key.Public().(ed25519.PublicKey)) }
	payee := ed25519.NewKeyFromSeed([]byte(strings.Repeat("d", ed25519.SeedSize)))
	donor := node(payee)
	c, err := plugin.Start(t.Context(), plugin.Command{Path: ledgerFile}, plugin.Options{State: dir})
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
	b, last := books.New(node(self)), books.Receipt{}
	begun := time.Now().Add(-time.Duration(n) * 50 * time.Millisecond)
	var batch []sdk.Record
	book := func(op books.Op) {
		at := begun.Add(time.Duration(b.Head().Seq) * 50 * time.Millisecond)
		var random [10]byte
		bits.BigEndian.PutUint64(random[:], b.Head().Seq)
		rec, _, err := b.Make(at, books.NewID(at, random), op)
		if err != nil {
			t.Fatal(err)
		}
		rec.Seq = 0 // the ledger numbers
		batch = append(batch, *rec)
	}
	for i := range n / 2 {
		bill := []books.Job{books.NewJob(books.Job{From: "asker", Cell: "work", Method: "Probe.Work", Calls: 2, CPU: 500, Source: "cgroup2/time"}, books.PriceOne)}
		last = books.Receipt{
			Payer: node(self), Payee: donor, Epoch: 1, Seq: uint64(i + 1), CPU: last.CPU + 500, Amount: last.Amount + 500, Calls: last.Calls + 2,
			Jobs: books.Root(bill), From: uint64(i), To: uint64(i + 1), Prev: last.Hash(),
		}
		s := books.Signed{Receipt: last, PayeeSig: sign(payee, last), PayerSig: sign(self, last)}
		book(books.Reserve{Peer: donor, Amount: 500, Limit: 1 << 50})
		book(books.Countersign{Signed: s, List: bill})
		for _, op := range b.Due() {
			book(op)
		}
		if len(batch) > sdk.MaxBatch-100 || i == n/2-1 {
			if head, err = l.Append(t.Context(), head, batch); err != nil {
				t.Fatal(err)
			}
			batch = batch[:0]
		}
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A book of many records is checked by the command, and a kernel begins with it.
// RECORDS says how many; the times are for who asks for them.
func TestManyRecords(t *testing.T) {
	records := 20_000
	if v := os.Getenv("RECORDS"); v != "" {
		var err error
		if records, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	} else {
		t.Parallel()
	}
	home := newMesh(t)
	n := farNode(t, home, "old", "[golgi]\ndiscovery = []\n[cells.w]\ncommand = [\"PROBE\", \"serve\"]\n")
	pem, err := os.ReadFile(n.id().File)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParseRawPrivateKey(pem)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(home, "lab", "old", "ledger", "json")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	longBook(t, dir, *key.(*ed25519.PrivateKey), records)
	cmd := n.command(context.Background(), "ledger", "verify")
	begun := time.Now()
	out, err := cmd.CombinedOutput()
	verify := time.Since(begun)
	if err != nil {
		t.Fatalf("verify: %v: %s", err, out)
	}
	mb := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss / 1000 // KiB, as Linux has it
	begun = time.Now()
	n.up()
	ready := time.Since(begun)
	w := n.wallet()
	if w.Records < uint64(records) || w.Spent != sdk.ATP(records/2)*500 {
		t.Errorf("the wallet: %+v", w)
	}
	contains(t, string(out), "ok: "+strconv.FormatUint(w.Records, 10)+" records")
	t.Logf("%d records: verify %s, %d MB; ready after %s", w.Records, verify.Round(time.Millisecond), mb, ready.Round(time.Millisecond))
}
