package plugintest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"

	"github.com/cellkernel/cellkernel/sdk"
)

func checkTwice(b *book) error {
	r := record(1)
	_, err := b.Append(b.e.ctx, b.head, []sdk.Record{r, record(2), r})
	if err := wantCode(err, sdk.CodeInvalid, "a batch with one id twice"); err != nil {
		return err
	}
	return b.unchanged()
}

func checkPartial(b *book) error {
	r := record(1)
	if err := b.add(r); err != nil {
		return err
	}
	_, err := b.Append(b.e.ctx, b.head, []sdk.Record{r, record(2)})
	if err := wantCode(err, sdk.CodeInvalid, "a batch of which one record is stored"); err != nil {
		return err
	}
	return b.unchanged()
}

// checkOverflow fills an account to the brim in eighths, which are the most a
// posting may have.
func checkOverflow(b *book) error {
	rs := records(9)
	for i := range rs {
		rs[i].Postings = []sdk.Posting{{Account: "full", Amount: math.MaxInt64 / 8}, {Account: "empty", Amount: -(math.MaxInt64 / 8)}}
	}
	if err := b.add(rs[:8]...); err != nil {
		return err
	}
	_, err := b.Append(b.e.ctx, b.head, rs[8:])
	if err := wantCode(err, sdk.CodeInvalid, "a posting that takes an account beyond 63 bits"); err != nil {
		return err
	}
	return b.unchanged()
}

func checkOpenAgain(b *book) error {
	if err := b.add(records(3)...); err != nil {
		return err
	}
	head, err := b.Open(b.e.ctx)
	if err == nil && head != b.head {
		err = fmt.Errorf("opened again it is at %d, want %d", head.Seq, b.head.Seq)
	}
	return err
}

// checkSnapshot reads while batches of three records arrive, of which each
// moves 1.
func checkSnapshot(b *book) error {
	const batches, size = 30, 3
	done := make(chan error, 1)
	writer := *b
	go func() {
		for i := range batches {
			batch := make([]sdk.Record, size)
			for j := range batch {
				batch[j] = record(i*size + j)
				batch[j].Postings = []sdk.Posting{{Account: "a", Amount: 1}, {Account: "b", Amount: -1}}
			}
			if err := writer.add(batch...); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for {
		if err := b.whole(size); err != nil {
			return errors.Join(err, <-done)
		}
		select {
		case err := <-done:
			return errors.Join(err, b.whole(size))
		default:
		}
	}
}

func (b *book) whole(size int) error {
	head, balances, err := b.Balances(b.e.ctx)
	if err != nil {
		return err
	}
	if n := sdk.ATP(head.Seq); balances["a"] != n || balances["b"] != -n || int(head.Seq)%size != 0 {
		return fmt.Errorf("balances at %d are %v", head.Seq, balances)
	}
	got, err := b.all(0)
	if err == nil && len(got)%size != 0 {
		err = fmt.Errorf("read %d records, which are no whole batches of %d", len(got), size)
	}
	return err
}

// holds checks that the book has these records, and their sums.
func (b *book) holds(rs []sdk.Record) error {
	got, err := b.all(0)
	if err != nil {
		return err
	}
	if err := compare(got, rs); err != nil {
		return err
	}
	want, end := map[sdk.Account]sdk.ATP{}, sdk.Head{}
	for i := range rs {
		end = end.Next(&rs[i])
		for _, p := range rs[i].Postings {
			want[p.Account] += p.Amount
		}
	}
	head, balances, err := b.Balances(b.e.ctx)
	if err == nil && (head != end || !maps.Equal(balances, want)) {
		err = fmt.Errorf("balances at %d are %v, want %v at %d", head.Seq, balances, want, end.Seq)
	}
	return err
}

// remembers checks that what was stored before a restart is known behind it:
// as success, as a conflict, and as the end to go on from.
func (b *book) remembers(rs []sdk.Record) error {
	head, err := b.Append(b.e.ctx, sdk.Head{}, rs[:1])
	if err != nil || head != b.head {
		return fmt.Errorf("the first record again after a restart: head %d, want %d; %w", head.Seq, b.head.Seq, err)
	}
	forged := rs[len(rs)-1]
	forged.Body = []byte("forged")
	_, err = b.Append(b.e.ctx, b.head, []sdk.Record{forged})
	if err := wantCode(err, sdk.CodeInvalid, "after a restart, a stored id with other bytes"); err != nil {
		return err
	}
	return b.add(record(len(rs)))
}

// checkTorn kills the process again and again while an append is under way.
func checkTorn(e *env) error {
	if e.o.Volatile {
		return skipError("it keeps nothing")
	}
	var stored []sdk.Record
	for round := range 8 {
		b, err := openBook(e, e.dir)
		if err != nil {
			return err
		}
		acked, last := b.killed(round, len(stored))
		stored = append(stored, acked...)
		again, err := openBook(e, e.dir)
		if err != nil {
			return err
		}
		if again.head.Seq > uint64(len(stored)) { // it was durable, and nobody heard
			stored = append(stored, last...)
		}
		if err := again.holds(stored); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		e.drop(again.c)
		again.c.Kill()
	}
	return nil
}

// killed appends batches until the process is killed, within the batch that
// follows some. It returns what was acknowledged, and the batch that was not.
func (b *book) killed(round, from int) (acked, last []sdk.Record) {
	b.e.drop(b.c)
	for i := 0; ; i++ {
		batch := make([]sdk.Record, 50)
		for j := range batch {
			batch[j] = record(from + 50*i + j)
		}
		if i == round%4+1 {
			go b.c.Kill()
		}
		if err := b.add(batch...); err != nil {
			return acked, batch
		}
		acked = append(acked, batch...)
	}
}

// checkDamage changes a byte in the middle of every file, and cuts it in the
// middle and to nothing. The book says so, or has all of its records none the
// less.
func checkDamage(e *env) error {
	if e.o.Volatile {
		return skipError("it keeps nothing")
	}
	b, err := openBook(e, e.dir)
	if err != nil {
		return err
	}
	rs := records(40)
	if err := errors.Join(b.add(rs[:20]...), b.add(rs[20:]...)); err != nil {
		return err
	}
	e.drop(b.c)
	if err := b.c.Stop(context.WithoutCancel(e.ctx)); err != nil {
		return err
	}
	files, err := filesOf(e.dir)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return skipError("it keeps nothing in its directory")
	}
	if err := e.opensSound(files, rs); err != nil {
		return fmt.Errorf("a copy of its directory: %w", err)
	}
	for name, content := range files {
		changed := append([]byte(nil), content...)
		changed[len(changed)/2] ^= 1
		for what, with := range map[string][]byte{"changed": changed, "cut": content[:len(content)/2], "emptied": nil} {
			if err := e.opensDamaged(files, name, with, rs); err != nil {
				return fmt.Errorf("%q %s in the middle: %w", name, what, err)
			}
		}
	}
	return nil
}

// filesOf reads the files below dir that have something in them.
func filesOf(dir string) (map[string][]byte, error) {
	files := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if rel, relErr := filepath.Rel(dir, path); relErr == nil && len(content) > 0 {
			files[rel] = content
		}
		return err
	})
	return files, err
}

// openCopy opens a book of these files.
func (e *env) openCopy(files map[string][]byte) (b *book, said error, err error) {
	dir, err := os.MkdirTemp(e.dir, "copy")
	if err != nil {
		return nil, nil, err
	}
	for n, content := range files {
		path := filepath.Join(dir, n)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, content, 0o600)); err != nil {
			return nil, nil, err
		}
	}
	b, said = openBook(e, dir)
	return b, said, nil
}

// opensSound is the test of the test: nothing but damage may be complained of.
func (e *env) opensSound(files map[string][]byte, rs []sdk.Record) error {
	b, said, err := e.openCopy(files)
	if err := errors.Join(said, err); err != nil {
		return err
	}
	defer b.c.Stop(context.WithoutCancel(e.ctx))
	return b.holds(rs)
}

func (e *env) opensDamaged(files map[string][]byte, name string, with []byte, rs []sdk.Record) error {
	files = maps.Clone(files)
	files[name] = with
	b, said, err := e.openCopy(files)
	if err != nil || said != nil {
		return err // that it says so is what is wanted
	}
	defer b.c.Stop(context.WithoutCancel(e.ctx))
	got, err := b.all(0)
	if err != nil {
		return nil
	}
	return compare(got, rs)
}
