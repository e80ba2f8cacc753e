package datagram

import (
	"encoding/binary"
	"net/netip"
)

// A Sync says what a watching node has: everything of a group up to version
// Cursor. It subscribes, acknowledges and keeps alive.
type Sync struct {
	Tag      Tag
	Instance uint64 // of the group that Cursor counts in; 0 at first
	Cursor   uint64
	Answer   bool // a state is wanted even if there is nothing new
}

// AppendSync appends m.
func AppendSync(b []byte, s Session, c Cookie, m Sync) []byte {
	b = append(append(appendHead(b, KindSync, s), c[:]...), m.Tag[:]...)
	b = binary.LittleEndian.AppendUint64(b, m.Instance)
	b = binary.LittleEndian.AppendUint64(b, m.Cursor)
	return appendFlag(b, m.Answer)
}

// ParseSync returns what a node has.
func ParseSync(b []byte) (Sync, error) {
	r := reader{b: b[min(CookieSize, len(b)):]}
	m := Sync{Tag: Tag(r.bytes(8)), Instance: r.u64(), Cursor: r.u64(), Answer: r.flag()}
	return m, r.end()
}

// A Row is one registration of a group. Its envelopes follow as parts. Rows
// are sent in the order of their versions; Prev is the version before, so
// that a gap shows.
type Row struct {
	Instance      uint64
	Version, Prev uint64
	ID            ID
	Gone          bool           // it said goodbye or its lease ended
	Observed      netip.AddrPort // where it was registered from
	Port          uint16         // of that socket, as its node sees it
	Hashes        []Hash
}

// AppendRow appends m.
func AppendRow(b []byte, s Session, m *Row) []byte {
	b = appendHead(b, KindRow, s)
	b = binary.LittleEndian.AppendUint64(b, m.Instance)
	b = binary.LittleEndian.AppendUint64(b, m.Version)
	b = binary.LittleEndian.AppendUint64(b, m.Prev)
	b = appendAddr(appendFlag(append(b, m.ID[:]...), m.Gone), m.Observed)
	b = binary.LittleEndian.AppendUint16(b, m.Port)
	return appendHashes(b, m.Hashes)
}

// ParseRow returns a row.
func ParseRow(b []byte) (Row, error) {
	r := reader{b: b[min(headSize, len(b)):]}
	m := Row{Instance: r.u64(), Version: r.u64(), Prev: r.u64(), ID: ID(r.bytes(16)), Gone: r.flag()}
	m.Observed, m.Port, m.Hashes = r.addr(), r.u16(), r.hashes()
	return m, r.end()
}

// A State ends each answer to a Sync, and each push.
type State struct {
	Status   Status
	Instance uint64
	From     uint64 // the version of the last row sent, or the node's cursor
	Upto     uint64 // who has everything up to From has everything up to this
	Current  uint64 // the version of the group
}

// AppendState appends m.
func AppendState(b []byte, s Session, m State) []byte {
	b = append(appendHead(b, KindState, s), uint8(m.Status))
	for _, v := range []uint64{m.Instance, m.From, m.Upto, m.Current} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// ParseState returns the end of an answer.
func ParseState(b []byte) (State, error) {
	r := reader{b: b[min(headSize, len(b)):]}
	m := State{Status: Status(r.u8()), Instance: r.u64(), From: r.u64(), Upto: r.u64(), Current: r.u64()}
	return m, r.end()
}
