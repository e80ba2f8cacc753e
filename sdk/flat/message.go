package flat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Message is implemented by pointers to generated structs.
type Message interface {
	// AppendFlat appends one finished buffer to b and returns the extended
	// slice. len(b) must be a multiple of 8. A nil receiver is encoded as the
	// zero message. What can not be encoded becomes a buffer that no receiver
	// accepts: see [Finished].
	AppendFlat(b []byte) []byte
	// ParseFlat verifies b and copies it into the receiver; nothing refers to
	// b afterwards. It reuses the memory of the receiver's slices and of the
	// tables it points to. After an error the receiver is as it was.
	ParseFlat(b []byte) error
}

// Limits of a buffer.
const (
	MaxDepth  = 64            // tables inside tables
	MaxBuffer = math.MaxInt32 // bytes: offsets are 32 bits, some of them signed
)

// errUnfinished is what senders see of a buffer made by [AppendUnfinished].
var errUnfinished = errors.New("encode message: it is cyclic, nested too deeply or too large")

// Finished reports whether b, one buffer made by AppendFlat, can be sent. It
// can not if the message was nested deeper than [MaxDepth], which includes
// every cyclic one, or longer than [MaxBuffer].
func Finished(b []byte) error {
	if len(b) < 4 || binary.LittleEndian.Uint32(b) == 0 {
		return errUnfinished
	}
	return nil
}

// AppendUnfinished appends the buffer that stands for a message that can not
// be encoded. [Finished] and [Verify] refuse it.
func AppendUnfinished(b []byte) []byte { return append(b, 0, 0, 0, 0) }

// Finish ends the buffer that began at b[base:]: it is replaced by the one of
// [AppendUnfinished] if it became too long.
func Finish(b []byte, base int) []byte {
	if len(b)-base > MaxBuffer {
		return AppendUnfinished(b[:base])
	}
	return b
}

// A VerifyError says where a buffer breaks the format.
type VerifyError struct {
	Field  string // "Job.name", or the table alone
	Offset int    // byte of the buffer
	Text   string
}

// Error returns "verify Job.name: byte 40: string is not terminated".
func (e *VerifyError) Error() string {
	return fmt.Sprintf("verify %s: byte %d: %s", e.Field, e.Offset, e.Text)
}
