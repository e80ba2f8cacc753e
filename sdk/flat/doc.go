// Package flat is the runtime of generated message code: it writes and reads
// the FlatBuffers wire format (https://flatbuffers.dev/internals), so that
// flatc and every other FlatBuffers implementation understand the bytes.
//
// Nobody calls it by hand. For a message type Job the generator writes
//
//   - (*Job).AppendFlat, which encodes without a builder: each table is one
//     image, a constant, with the scalars put into it; what it refers to follows;
//   - a [Schema], data that says how all messages of a package are laid out.
//     [Verify] interprets it, so there is one verifier for all messages, and
//     [Schema.Layout] prints it, so that two sides can compare theirs;
//   - JobView, a verified [Table] with an accessor per field, which reads
//     straight from the received bytes, and (*Job).ParseFlat, which copies.
//
// # What is on the wire
//
// Fields have slots, numbered from 0, pinned by the .fbs file beside the
// source. Scalars are always written, empty strings and empty vectors never:
// nil and empty are the same. A nil optional table is absent. Inside a vector
// of tables there is no absent: a nil element is sent as a zero message.
//
// A [time.Time] is a long, nanoseconds since the Unix epoch; the zero Time is
// 0, which also means that the epoch itself is read back as the zero Time.
//
// # Trust
//
// Views exist only of verified bytes. [Verify] bounds depth and work: what a
// message unpacks to is at most a small multiple of its length, however often
// it refers to the same bytes.
package flat
