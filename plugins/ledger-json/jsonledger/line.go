package jsonledger

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"

	"github.com/cellkernel/cellkernel/sdk"
)

const (
	version = 1
	maxLine = 16 << 10 // bytes of a line, with room: the largest record has about 8 KiB
	sumTail = len(`,"crc":"00000000"}`)
)

// An entry is a line of a segment that holds a record.
type entry struct {
	rec         sdk.Record
	first, last uint64   // the batch: its first and its last sequence number
	hash        [32]byte // of the head behind the record
	off, end    int64    // where the line is, with its newline
}

// A header is the first line of a segment.
type header struct {
	first uint64   // sequence number of the first record
	prev  [32]byte // hash of the head before it
}

func castagnoli(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// appendSum ends the line that begins at b[from:].
func appendSum(b []byte, from int) []byte {
	sum := castagnoli(b[from:])
	return fmt.Appendf(b, ",\"crc\":\"%08x\"}\n", sum)
}

func appendHeader(b []byte, h header) []byte {
	from := len(b)
	b = fmt.Appendf(b, `{"cellkernel-ledger":%d,"first":%d,"prev":"%x"`, version, h.first, h.prev)
	return appendSum(b, from)
}

// appendEntry appends the line of e, with its newline.
func appendEntry(b []byte, e *entry) []byte {
	from := len(b)
	b = append(b, `{"seq":`...)
	b = strconv.AppendUint(b, e.rec.Seq, 10)
	b = append(b, `,"batch":[`...)
	b = strconv.AppendUint(b, e.first, 10)
	b = append(b, ',')
	b = strconv.AppendUint(b, e.last, 10)
	b = append(b, `],"id":"`...)
	b = hex.AppendEncode(b, e.rec.ID[:])
	b = append(b, `","postings":[`...)
	for i, p := range e.rec.Postings {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '[')
		b = appendString(b, string(p.Account))
		b = append(b, ',')
		b = strconv.AppendInt(b, int64(p.Amount), 10)
		b = append(b, ']')
	}
	b = append(b, `],"body":"`...)
	b = base64.StdEncoding.AppendEncode(b, e.rec.Body)
	b = append(b, `","hash":"`...)
	b = hex.AppendEncode(b, e.hash[:])
	b = append(b, '"')
	return appendSum(b, from)
}

// appendString quotes printable ASCII.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

// A parser takes a line apart. It accepts exactly what the functions above
// write; after the first mistake it does nothing more.
type parser struct {
	rest []byte
	err  error
}

func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
	p.rest = nil
}

func (p *parser) word(w string) {
	if !bytes.HasPrefix(p.rest, []byte(w)) {
		p.fail("want %q", w)
		return
	}
	p.rest = p.rest[len(w):]
}

// until returns what is before the next c.
func (p *parser) until(c byte) []byte {
	i := bytes.IndexByte(p.rest, c)
	if i < 0 {
		p.fail("want %q", string(c))
		return nil
	}
	b := p.rest[:i]
	p.rest = p.rest[i:]
	return b
}

func (p *parser) number(end byte) uint64 {
	b := p.until(end)
	n, err := strconv.ParseUint(string(b), 10, 64)
	if err != nil || len(b) > 1 && b[0] == '0' {
		p.fail("%q is no number", b)
	}
	return n
}

func (p *parser) hex(to []byte) {
	b := p.until('"')
	if len(b) != 2*len(to) {
		p.fail("want %d hexadecimal digits", 2*len(to))
		return
	}
	if _, err := hex.Decode(to, b); err != nil {
		p.fail("%v", err)
	}
}

func (p *parser) account() sdk.Account {
	p.word(`"`)
	var name [sdk.MaxAccount]byte
	n := 0
	for i := 0; i < len(p.rest); i++ {
		c := p.rest[i]
		if c == '"' {
			p.rest = p.rest[i+1:]
			return sdk.Account(name[:n])
		}
		if c == '\\' {
			i++
		}
		if n == len(name) || i == len(p.rest) {
			break
		}
		name[n] = p.rest[i]
		n++
	}
	p.fail("an account does not end")
	return ""
}

func (p *parser) postings() []sdk.Posting {
	var ps []sdk.Posting
	for len(p.rest) > 0 && p.rest[0] != ']' {
		if len(ps) == sdk.MaxPostings {
			p.fail("more than %d postings", sdk.MaxPostings)
			return nil
		}
		if len(ps) > 0 {
			p.word(`,`)
		}
		p.word(`[`)
		a := p.account()
		p.word(`,`)
		b := p.until(']')
		n, err := strconv.ParseInt(string(b), 10, 64)
		if err != nil {
			p.fail("%q is no amount", b)
		}
		p.word(`]`)
		ps = append(ps, sdk.Posting{Account: a, Amount: sdk.ATP(n)})
	}
	return ps
}

// summed checks the sum at the end of a line and returns what is before it.
func summed(line []byte) ([]byte, error) {
	if len(line) < sumTail {
		return nil, fmt.Errorf("a line of %d bytes", len(line))
	}
	b, tail := line[:len(line)-sumTail], line[len(line)-sumTail:]
	if want := fmt.Appendf(nil, `,"crc":"%08x"}`, castagnoli(b)); !bytes.Equal(tail, want) {
		return nil, fmt.Errorf("the line's checksum does not hold: it ends in %q, want %q", tail, want)
	}
	return b, nil
}

func parseHeader(line []byte) (header, error) {
	b, err := summed(line)
	if err != nil {
		return header{}, err
	}
	var h header
	p := &parser{rest: b}
	p.word(`{"cellkernel-ledger":`)
	if v := p.number(','); p.err == nil && v != version {
		return header{}, fmt.Errorf("its version is %d: this program reads %d", v, version)
	}
	p.word(`,"first":`)
	h.first = p.number(',')
	p.word(`,"prev":"`)
	p.hex(h.prev[:])
	p.word(`"`)
	return h, p.end()
}

func (p *parser) end() error {
	if p.err == nil && len(p.rest) > 0 {
		p.fail("%d bytes too many", len(p.rest))
	}
	return p.err
}

// parseEntry parses a line without its newline.
func parseEntry(line []byte) (entry, error) {
	var e entry
	b, err := summed(line)
	if err != nil {
		return e, err
	}
	p := &parser{rest: b}
	p.word(`{"seq":`)
	e.rec.Seq = p.number(',')
	p.word(`,"batch":[`)
	e.first = p.number(',')
	p.word(`,`)
	e.last = p.number(']')
	p.word(`],"id":"`)
	p.hex(e.rec.ID[:])
	p.word(`","postings":[`)
	e.rec.Postings = p.postings()
	p.word(`],"body":"`)
	body := p.until('"')
	if e.rec.Body, err = base64.StdEncoding.Strict().AppendDecode(nil, body); err != nil {
		p.fail("body: %v", err)
	}
	p.word(`","hash":"`)
	p.hex(e.hash[:])
	p.word(`"`)
	if err := p.end(); err != nil {
		return e, err
	}
	if e.first > e.rec.Seq || e.last < e.rec.Seq || e.last-e.first >= sdk.MaxBatch || e.first == 0 {
		return e, fmt.Errorf("record %d in the batch %d to %d", e.rec.Seq, e.first, e.last)
	}
	return e, check(&e.rec)
}

// check refuses what could not be read back. (The sdk holds the kernel's
// records to the same.)
func check(r *sdk.Record) error {
	if len(r.Body) > sdk.MaxRecord || len(r.Postings) > sdk.MaxPostings {
		return fmt.Errorf("body of %d bytes, %d postings: at most %d and %d", len(r.Body), len(r.Postings), sdk.MaxRecord, sdk.MaxPostings)
	}
	sum := sdk.ATP(0)
	for _, p := range r.Postings {
		if len(p.Account) == 0 || len(p.Account) > sdk.MaxAccount {
			return fmt.Errorf("account of %d bytes: want 1 to %d", len(p.Account), sdk.MaxAccount)
		}
		for i := range len(p.Account) {
			if c := p.Account[i]; c < ' ' || c > '~' {
				return fmt.Errorf("account %q: want printable ASCII", string(p.Account))
			}
		}
		// An eighth of the range leaves room for the sum of eight.
		if p.Amount > math.MaxInt64/sdk.MaxPostings || p.Amount < math.MinInt64/sdk.MaxPostings {
			return fmt.Errorf("amount %d is out of range", int64(p.Amount))
		}
		sum += p.Amount
	}
	if sum != 0 {
		return errors.New("the postings do not sum to 0")
	}
	return nil
}
