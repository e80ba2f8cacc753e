package synapse

import (
	"encoding/binary"
	"io"
)

// Sizes of a Reader's buffer: an idle link holds the smallest.
const (
	smallBuffer = 4 << 10
	largeBuffer = 128 << 10
	calmReads   = 64 // reads in a row that a small buffer could have taken
)

// A Reader decrypts a stream. Messages that fit into the caller's slice are
// decrypted straight into it. It is not for concurrent use.
type Reader struct {
	s     *Session
	src   io.Reader
	buf   []byte
	r, w  int    // buf[r:w] is sealed
	plain []byte // opened but not yet taken; lies in buf before r
	calm  int
}

// NewReader returns a Reader of what s opens from src.
func NewReader(src io.Reader, s *Session) *Reader {
	return &Reader{s: s, src: src, buf: make([]byte, smallBuffer)}
}

// Read implements io.Reader. It returns io.EOF only at the authenticated end
// of the stream; if src ends before, io.ErrUnexpectedEOF.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if len(r.plain) > 0 {
			n := copy(p, r.plain)
			r.plain = r.plain[n:]
			return n, nil
		}
		n, err := r.open(p)
		if n > 0 {
			return n, nil // an error stays and comes back
		}
		if err != nil {
			return 0, err
		}
		if len(r.plain) == 0 {
			if err := r.fill(); err != nil {
				return 0, err
			}
		}
	}
}

// open opens what is complete into p, or, if the first message does not fit
// there, that one where it lies.
func (r *Reader) open(p []byte) (n int, err error) {
	for {
		size, err := r.s.in.next(r.buf[r.r:r.w])
		if err != nil || size == 0 {
			return n, err
		}
		msg := r.buf[r.r+lenLen : r.r+size]
		fits := len(msg)-tagLen <= len(p)-n
		if !fits && n > 0 {
			return n, nil
		}
		r.r += size
		if !fits {
			r.plain, err = r.s.in.open(msg[:0], msg)
			return 0, err
		}
		if _, err := r.s.in.open(p[n:n:len(p)], msg); err != nil {
			return n, err
		}
		n += len(msg) - tagLen
	}
}

// fill reads more, after it made room for the message that has begun.
func (r *Reader) fill() error {
	r.makeRoom()
	n, err := r.src.Read(r.buf[r.w:])
	r.w += n
	if n >= smallBuffer/2 {
		r.calm = 0
	} else {
		r.calm++
	}
	switch {
	case n > 0:
		return nil // an error of src comes back
	case err == io.EOF:
		return io.ErrUnexpectedEOF
	}
	return err
}

func (r *Reader) makeRoom() {
	need := Overhead
	if unread := r.buf[r.r:r.w]; len(unread) >= lenLen {
		need = lenLen + int(binary.BigEndian.Uint16(unread))
	}
	size := len(r.buf)
	switch {
	case need > size || size == smallBuffer && r.w == size:
		size = largeBuffer // it is the longest message that does not fit, or much comes
	case need <= smallBuffer && r.calm > calmReads:
		size = smallBuffer
	}
	if size == len(r.buf) && r.r+need <= size && r.w < size && r.r != r.w {
		return
	}
	to := r.buf
	if size != len(to) {
		to = make([]byte, size)
	}
	r.w = copy(to, r.buf[r.r:r.w])
	r.buf, r.r = to, 0
}
