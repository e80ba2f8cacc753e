package jsonledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/cellkernel/cellkernel/sdk"
)

const (
	checkpointName = "mitochondria.json"
	maxCheckpoint  = 256 << 20   // bytes
	reserved       = "reserved/" // how accounts of open reservations begin
)

// A checkpoint is what mitochondria.json says: where the book was, and what
// its accounts came to. It saves reading the book, and the book may never end
// before it.
type checkpoint struct {
	Version      int                     `json:"version"`
	Seq          uint64                  `json:"seq"`
	Hash         string                  `json:"hash"`
	Segments     []checkpointSegment     `json:"segments"`
	Balances     map[sdk.Account]sdk.ATP `json:"balances"`     // in CPU-microseconds
	Reservations map[sdk.Account]sdk.ATP `json:"reservations"` // accounts "reserved/…" that are not at 0
	SHA256       string                  `json:"sha256"`       // of this file with this value empty
}

type checkpointSegment struct {
	File string `json:"file"`
	Size int64  `json:"size"`
	Low  string `json:"low,omitempty"` // the range of its ids
	High string `json:"high,omitempty"`
}

// format is the file, to the byte: whatever else decodes to the same is not it.
func (c checkpoint) format() ([]byte, error) {
	c.SHA256 = ""
	b, err := json.MarshalIndent(c, "", "\t")
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	c.SHA256 = hex.EncodeToString(sum[:])
	b, err = json.MarshalIndent(c, "", "\t")
	return append(b, '\n'), err
}

// readCheckpoint returns nil where there is none.
func readCheckpoint(dir fileSystem) (*checkpoint, error) {
	f, err := dir.Open(checkpointName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", checkpointName, err)
	}
	if size > maxCheckpoint {
		return nil, &DamageError{File: checkpointName, Cause: fmt.Sprintf("it has %d bytes: at most %d", size, maxCheckpoint)}
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %q: %w", checkpointName, err)
	}
	c := &checkpoint{}
	if err := json.Unmarshal(b, c); err != nil {
		var syntax *json.SyntaxError
		e := &DamageError{File: checkpointName, Cause: err.Error()}
		if errors.As(err, &syntax) {
			e.Offset = syntax.Offset
		}
		return nil, e
	}
	if c.Version != version {
		return nil, &DamageError{File: checkpointName, Cause: fmt.Sprintf("its version is %d: this program reads %d", c.Version, version)}
	}
	want, err := c.format()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(b, want) {
		return nil, &DamageError{File: checkpointName, Offset: int64(differ(b, want)), Cause: "its checksum does not hold"}
	}
	return c, nil
}

// differ returns where a and b first differ.
func differ(a, b []byte) int {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	return i
}

func (c *checkpoint) head() (sdk.Head, error) {
	h := sdk.Head{Seq: c.Seq}
	if len(c.Hash) != 2*len(h.Hash) {
		return h, errors.New("hash of the wrong length")
	}
	_, err := hex.Decode(h.Hash[:], []byte(c.Hash))
	return h, err
}

// accounts joins balances and reservations again.
func (c *checkpoint) accounts() map[sdk.Account]sdk.ATP {
	all := make(map[sdk.Account]sdk.ATP, len(c.Balances)+len(c.Reservations))
	for _, m := range []map[sdk.Account]sdk.ATP{c.Balances, c.Reservations} {
		for a, v := range m {
			all[a] = v
		}
	}
	return all
}

// segments returns what the checkpoint knows of its files.
func (c *checkpoint) segments() ([]*segment, error) {
	var list []*segment
	for _, cs := range c.Segments {
		if !segmentName.MatchString(cs.File) {
			return nil, fmt.Errorf("%q is no segment", cs.File)
		}
		s := newSegment(0)
		if _, err := fmt.Sscanf(cs.File, "%d.jsonl", &s.first); err != nil {
			return nil, err
		}
		s.size = cs.Size
		if cs.Low != "" {
			low, err1 := hex.DecodeString(cs.Low)
			high, err2 := hex.DecodeString(cs.High)
			if err1 != nil || err2 != nil || len(low) != len(s.low) || len(high) != len(s.high) {
				return nil, fmt.Errorf("the range of ids of %q is malformed", cs.File)
			}
			s.low, s.high = sdk.RecordID(low), sdk.RecordID(high)
		}
		list = append(list, s)
	}
	if len(list) == 0 {
		return nil, errors.New("it names no segment")
	}
	return list, nil
}

// newCheckpoint describes a book.
func newCheckpoint(b *book) checkpoint {
	c := checkpoint{
		Version: version, Seq: b.head.Seq, Hash: hex.EncodeToString(b.head.Hash[:]),
		Balances: map[sdk.Account]sdk.ATP{}, Reservations: map[sdk.Account]sdk.ATP{},
	}
	for a, v := range b.balances {
		if v != 0 && strings.HasPrefix(string(a), reserved) {
			c.Reservations[a] = v
		} else {
			c.Balances[a] = v
		}
	}
	for _, s := range b.segments {
		cs := checkpointSegment{File: s.name(), Size: s.size}
		if s.mayHave(s.low) {
			cs.Low, cs.High = s.low.String(), s.high.String()
		}
		c.Segments = append(c.Segments, cs)
	}
	return c
}
