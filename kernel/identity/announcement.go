package identity

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/cellkernel/cellkernel/sdk"
)

// Limits of announcements.
const (
	MaxTTL       = 30 * time.Second // how long one is believed after it arrived
	MaxListeners = 8                // of a node
	MaxCells     = 512              // of a node, over all parts
)

// An envelope is
//
//	4   "ckA" 1
//	8   tag of the mesh
//	24  random nonce
//	    XChaCha20-Poly1305 under the announcement key, with tag and magic as
//	    additional data, of: u16 length, body, 64 signature of the node over
//	    the mesh id and the body, zero bytes up to a multiple of 64
const (
	magic    = "ckA\x01"
	tagLen   = 8
	openHead = len(magic) + tagLen + chacha20poly1305.NonceSizeX
	maxPlain = (sdk.MaxEnvelope - openHead - chacha20poly1305.Overhead) / padTo * padTo
	maxBody  = maxPlain - 2 - sigLen
	padTo    = 64

	domainAnnouncement = "cellkernel/announcement/v1\x00"
)

// Errors of announcements that came from outside.
var (
	// ErrForeign is an announcement of another mesh, as [EnvelopeTag] can tell.
	ErrForeign = errors.New("open announcement: of another mesh")
	// ErrAnnouncement is one that no member has made as it is.
	ErrAnnouncement = errors.New("open announcement: not authentic")
)

// An Announcement is what a node says about itself. It is a hint: who answers
// at the addresses it leads to is proved by certificates. A node has as many
// parts as it takes; each stands for itself.
//
// It never carries a host: receivers dial the address it came from.
type Announcement struct {
	Node sdk.NodeID
	// Boot is one run of a kernel, see [Store.Boot]. Within it Seq rises;
	// receivers refuse what is not newer. Neither is a time.
	Boot [16]byte
	Seq  uint64
	// At is when it was made, by the node's clock, in whole seconds. What is
	// more than [CertificateSlack] from the receiver's time is of another day:
	// nobody brings back a node that has gone for longer.
	At        time.Time
	TTL       time.Duration // whole seconds, 1 s to [MaxTTL], counted by the receiver
	Wire      uint8         // major version of the wire format it speaks
	Donor     bool          // it works for others and charges for it
	Goodbye   bool          // it is leaving: no listeners, no cells
	Part      uint8         // of Parts, from 0; set by Announce
	Parts     uint8
	Name      sdk.CellName // of the node, for people
	Listeners []Listener
	Cells     []AnnouncedCell
}

// Timely reports whether a was made at about now, see At.
func (a *Announcement) Timely(now time.Time) bool {
	age := now.Sub(a.At)
	return age <= CertificateSlack && age >= -CertificateSlack
}

// A Listener is where a node can be dialled.
type Listener struct {
	Scheme string // the transport: "quic"
	Port   uint16
	Hint   []byte // for [sdk.Addr].Hint
}

// An AnnouncedCell is a cell that other machines may call.
type AnnouncedCell struct {
	Name     sdk.CellName
	Replicas uint16
	// Listeners is a set of indices into [Announcement].Listeners, bit 0 the
	// first: where the cell can be reached. It is not empty.
	Listeners uint8
}

const (
	flagDonor   = 1 << 0
	flagGoodbye = 1 << 1
)

func (a *Announcement) check() error {
	switch {
	case a.TTL < time.Second || a.TTL > MaxTTL || a.TTL%time.Second != 0:
		return fmt.Errorf("time to live %s: want 1s to %s in whole seconds", a.TTL, MaxTTL)
	case a.Part >= a.Parts || a.Parts > sdk.MaxEnvelopes:
		return fmt.Errorf("part %d of %d: at most %d", a.Part, a.Parts, sdk.MaxEnvelopes)
	case len(a.Listeners) > MaxListeners:
		return fmt.Errorf("%d listeners: at most %d", len(a.Listeners), MaxListeners)
	case len(a.Cells) > MaxCells:
		return fmt.Errorf("%d cells: at most %d", len(a.Cells), MaxCells)
	case a.Goodbye && len(a.Listeners)+len(a.Cells) > 0:
		return errors.New("goodbye with listeners or cells")
	}
	if _, err := sdk.ParseCellName(string(a.Name)); err != nil {
		return err
	}
	for _, l := range a.Listeners {
		addr := sdk.Addr{Scheme: l.Scheme, Host: "any", Hint: l.Hint}
		if err := addr.Validate(); err != nil || l.Port == 0 {
			return fmt.Errorf("listener %q, port %d: %v", l.Scheme, l.Port, err)
		}
	}
	for _, c := range a.Cells {
		if _, err := sdk.ParseCellName(string(c.Name)); err != nil {
			return err
		}
		if c.Listeners == 0 || int(c.Listeners) >= 1<<len(a.Listeners) {
			return fmt.Errorf("cell %q: listeners %#b of %d", c.Name, c.Listeners, len(a.Listeners))
		}
	}
	return nil
}

// Announce seals what the node of id says about itself, in as many envelopes
// as it takes. It sets Node, Part and Parts; the caller raises Seq.
func (m *Mesh) Announce(id *Identity, a Announcement) ([]sdk.Envelope, error) {
	a.Node, a.Part, a.Parts = id.Node(), 0, 1
	if err := a.check(); err != nil {
		return nil, fmt.Errorf("announce node: %w", err)
	}
	parts := a.split()
	if len(parts) > sdk.MaxEnvelopes {
		return nil, sdk.Errorf(sdk.CodeTooLarge, "announce node: %d parts: at most %d", len(parts), sdk.MaxEnvelopes)
	}
	list := make([]sdk.Envelope, len(parts))
	for i, part := range parts {
		part.Part, part.Parts = uint8(i), uint8(len(parts))
		body := part.append(nil)
		if len(body) > maxBody { // it has one cell, or none
			return nil, sdk.Errorf(sdk.CodeTooLarge, "announce node: listeners take %d bytes: at most %d", len(body), maxBody)
		}
		list[i] = m.seal(id, body)
	}
	return list, nil
}

// split divides the cells into parts that each fit into an envelope.
func (a Announcement) split() []Announcement {
	cells := a.Cells
	a.Cells = nil
	head := len(a.append(nil))
	parts := []Announcement{a}
	size := head
	for _, c := range cells {
		n := len(c.append(nil))
		if size > head && size+n > maxBody || len(parts[len(parts)-1].Cells) == math.MaxUint8 {
			parts, size = append(parts, a), head
		}
		last := &parts[len(parts)-1]
		last.Cells, size = append(last.Cells, c), size+n
	}
	return parts
}

// append appends the body: node[32] boot[16] u64 seq, u64 Unix seconds,
// u8 each of seconds to
// live, flags, wire major, part, parts; string name; u8 count of listeners,
// each string scheme, u16 port, string hint; u8 count of cells, each string
// name, u16 replicas, u8 listeners.
func (a Announcement) append(b []byte) []byte {
	var flags uint8
	if a.Donor {
		flags |= flagDonor
	}
	if a.Goodbye {
		flags |= flagGoodbye
	}
	b = append(append(b, a.Node.Key()...), a.Boot[:]...)
	b = binary.LittleEndian.AppendUint64(b, a.Seq)
	b = binary.LittleEndian.AppendUint64(b, uint64(a.At.Unix()))
	b = append(b, uint8(a.TTL/time.Second), flags, a.Wire, a.Part, a.Parts)
	b = appendText(b, string(a.Name))
	b = append(b, uint8(len(a.Listeners)))
	for _, l := range a.Listeners {
		b = appendText(b, l.Scheme)
		b = binary.LittleEndian.AppendUint16(b, l.Port)
		b = appendText(b, string(l.Hint))
	}
	b = append(b, uint8(len(a.Cells)))
	for _, c := range a.Cells {
		b = c.append(b)
	}
	return b
}

func (c AnnouncedCell) append(b []byte) []byte {
	b = appendText(b, string(c.Name))
	return append(binary.LittleEndian.AppendUint16(b, c.Replicas), c.Listeners)
}

func (m *Mesh) seal(id *Identity, body []byte) sdk.Envelope {
	plain := binary.LittleEndian.AppendUint16(nil, uint16(len(body)))
	plain = append(plain, body...)
	plain = append(plain, id.sign(domainAnnouncement, m.id[:], body)...)
	plain = append(plain, make([]byte, -len(plain)&(padTo-1))...)

	e := make([]byte, openHead, sdk.MaxEnvelope)
	copy(e[copy(e, magic):], m.tag[:])
	nonce := e[len(magic)+tagLen:]
	rand.Read(nonce) // never fails; 24 random bytes never repeat either
	return m.keys().announce.Seal(e, nonce, plain, e[:len(magic)+tagLen])
}

// EnvelopeTag returns by what the announcements of one mesh can be told from
// those of others, to count them. ok is false if e is no announcement. Anybody
// can write any tag.
func EnvelopeTag(e sdk.Envelope) (tag [8]byte, ok bool) {
	if len(e) < openHead+chacha20poly1305.Overhead || len(e) > sdk.MaxEnvelope || string(e[:len(magic)]) != magic {
		return tag, false
	}
	return [8]byte(e[len(magic):]), true
}

// OpenAnnouncement opens and checks an envelope that came from outside. It
// does not know what came before: sequence numbers are for the caller.
func (m *Mesh) OpenAnnouncement(e sdk.Envelope) (Announcement, error) {
	tag, ok := EnvelopeTag(e)
	switch {
	case !ok:
		return Announcement{}, ErrAnnouncement
	case tag != m.tag: // no secret: it is there for all to see
		return Announcement{}, ErrForeign
	}
	nonce, sealed := e[len(magic)+tagLen:openHead], e[openHead:]
	plain, err := m.keys().announce.Open(nil, nonce, sealed, e[:len(magic)+tagLen])
	if err != nil || len(plain) < 2+32+sigLen || len(plain)%padTo != 0 {
		return Announcement{}, ErrAnnouncement
	}
	body, rest := plain[2:], int(binary.LittleEndian.Uint16(plain))
	if rest < 32 || rest > len(body)-sigLen || len(body)-sigLen-rest >= padTo {
		return Announcement{}, ErrAnnouncement
	}
	sig, pad := body[rest:rest+sigLen], body[rest+sigLen:]
	body = body[:rest]
	// The signature comes before any field but the key is looked at.
	if !verify(body[:32], sig, domainAnnouncement, m.id[:], body) {
		return Announcement{}, ErrAnnouncement
	}
	for _, c := range pad {
		if c != 0 {
			return Announcement{}, ErrAnnouncement
		}
	}
	return parseAnnouncement(body)
}

func parseAnnouncement(body []byte) (Announcement, error) {
	r := reader{b: body}
	a := Announcement{Node: sdk.FormatNodeID(r.bytes(32)), Boot: [16]byte(r.bytes(16)), Seq: r.uint(8), At: time.Unix(int64(r.uint(8)), 0)}
	a.TTL = time.Duration(r.u8()) * time.Second
	flags := r.u8()
	a.Donor, a.Goodbye = flags&flagDonor != 0, flags&flagGoodbye != 0
	a.Wire, a.Part, a.Parts, a.Name = r.u8(), r.u8(), r.u8(), sdk.CellName(r.text())
	for range r.u8() {
		l := Listener{Scheme: r.text(), Port: uint16(r.uint(2))}
		if hint := r.text(); hint != "" {
			l.Hint = []byte(hint)
		}
		a.Listeners = append(a.Listeners, l)
	}
	for range r.u8() {
		a.Cells = append(a.Cells, AnnouncedCell{Name: sdk.CellName(r.text()), Replicas: uint16(r.uint(2)), Listeners: r.u8()})
	}
	if !r.done() || flags&^(flagDonor|flagGoodbye) != 0 || a.check() != nil {
		return Announcement{}, ErrAnnouncement
	}
	return a, nil
}
