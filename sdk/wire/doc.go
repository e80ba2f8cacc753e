// Package wire is the byte format of a link: frames, their metadata, the
// settings both sides open with, and the header a kernel writes before any of
// them. Everything here is a pure function over byte slices; docs/wire.md is
// the normative specification and testdata/vectors.txt its golden vectors.
//
// All integers are little endian. Every frame begins at a multiple of 8 bytes
// in the stream and its body at a multiple of 8 after that, so a receiver that
// reads into aligned memory can hand out payloads where they lie.
//
//	offset  size  field
//	0       4     size    bytes of body, at most MaxBody; padding not counted
//	4       1     kind
//	5       1     flags
//	6       2     aux     request: method; error: code | executed<<8
//	8       4     call    id of the call this belongs to, 0 where none is meant
//	12      4     value   request: time left; credit: bytes; ping: any
//	16      size  body, then zero bytes up to a multiple of 8
package wire
