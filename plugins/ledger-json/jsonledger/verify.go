package jsonledger

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/cellkernel/cellkernel/sdk"
)

// A Report is what [Verify] found in a sound book.
type Report struct {
	Head     sdk.Head
	Segments int
	Bytes    int64                   // of whole batches
	Torn     int64                   // bytes behind them, which the next start cuts
	Balances map[sdk.Account]sdk.ATP // at Head
}

// Verify reads a whole book and checks every byte of it: sums, numbers,
// batches, the chain, that no id is there twice, that every account's sum fits,
// and that the checkpoint says the same. It changes nothing, and the book may
// be open elsewhere. The first thing wrong is a [*DamageError].
func Verify(ctx context.Context, dir *os.Root) (Report, error) {
	return verify(ctx, directory{dir}, nil)
}

// Walk is [Verify], and shows every record on the way, as soon as its batch is
// known to be whole. An error that saw returns ends it.
func Walk(ctx context.Context, dir *os.Root, saw func(sdk.Record) error) (Report, error) {
	return verify(ctx, directory{dir}, saw)
}

func verify(ctx context.Context, dir fileSystem, saw func(sdk.Record) error) (Report, error) {
	c, err := readCheckpoint(dir) // first: the book goes on
	if err != nil {
		return Report{}, err
	}
	segments, err := segmentsOf(dir)
	if err != nil {
		return Report{}, err
	}
	if c == nil && len(segments) == 0 {
		return Report{}, sdk.Errorf(sdk.CodeNotFound, "there is no book: no %s and no segment", checkpointName)
	}
	v := verifier{Report: Report{Balances: map[sdk.Account]sdk.ATP{}}, checkpoint: c, saw: saw}
	t := tail{dir: dir, saw: v.took}
	for i, s := range segments {
		if err := v.segment(ctx, &t, s, i == len(segments)-1); err != nil {
			return v.Report, err
		}
	}
	if c != nil && !v.met {
		return v.Report, v.unmet()
	}
	return v.Report, v.twice()
}

type verifier struct {
	Report
	ids        []sdk.RecordID
	checkpoint *checkpoint // nil for none
	met        bool        // the checkpoint's head was in the book
	saw        func(sdk.Record) error
}

func (v *verifier) segment(ctx context.Context, t *tail, s *segment, last bool) error {
	if err := t.begin(s); err != nil {
		return err
	}
	if v.Segments == 0 {
		if err := v.meet(sdk.Head{}); err != nil {
			return err
		}
	}
	f, err := t.dir.Open(s.name())
	if err != nil {
		return err
	}
	defer f.Close()
	torn, err := t.read(ctx, s, f, last)
	v.Torn = torn
	v.Segments++
	v.Bytes += t.at.off
	return err
}

func (v *verifier) took(batch []entry) error {
	for i := range batch {
		if err := add(v.Balances, nil, batch[i].rec.Postings); err != nil {
			return &badLine{batch[i].off, err}
		}
		v.ids = append(v.ids, batch[i].rec.ID)
		if v.saw == nil {
			continue
		}
		if err := v.saw(batch[i].rec); err != nil {
			return err
		}
	}
	e := &batch[len(batch)-1]
	v.Head = sdk.Head{Seq: e.rec.Seq, Hash: e.hash}
	return v.meet(v.Head)
}

// meet compares the checkpoint at its head.
func (v *verifier) meet(at sdk.Head) error {
	if v.checkpoint == nil || v.checkpoint.Seq != at.Seq {
		return nil
	}
	v.met = true
	h, err := v.checkpoint.head()
	if err != nil || h != at {
		return &DamageError{File: checkpointName, Seq: at.Seq, Cause: fmt.Sprintf("its hash is %q: the book's is %x", v.checkpoint.Hash, at.Hash)}
	}
	if !maps.Equal(v.checkpoint.accounts(), v.Balances) {
		return &DamageError{File: checkpointName, Seq: at.Seq, Cause: "its balances are not those of the book"}
	}
	return nil
}

// unmet is the damage of a checkpoint whose head is not in the book.
func (v *verifier) unmet() error {
	cause := "it speaks of record %d, where no batch of the book ends"
	if v.Head.Seq < v.checkpoint.Seq {
		cause = "it speaks of record %d, and the book ends before that: it, or this copy of it, has been cut short"
	}
	return &DamageError{File: checkpointName, Seq: v.Head.Seq, Cause: fmt.Sprintf(cause, v.checkpoint.Seq)}
}

func (v *verifier) twice() error {
	slices.SortFunc(v.ids, func(a, b sdk.RecordID) int { return slices.Compare(a[:], b[:]) })
	for i := 1; i < len(v.ids); i++ {
		if v.ids[i] == v.ids[i-1] {
			return &DamageError{File: "the book", Seq: v.Head.Seq, Cause: fmt.Sprintf("record %s is in it twice", v.ids[i])}
		}
	}
	return nil
}
