package peers

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// An Announcement is what a node says about itself, verified: one part of one
// beat. The table keeps its slices; nobody may change them after [Table.See].
type Announcement struct {
	Node sdk.NodeID
	// Boot begins with a counter, u64 big endian, that rises with every start
	// of the node; the rest is random.
	Boot        [16]byte
	Seq         uint64 // rises within a boot; all parts of a beat share it
	TTL         time.Duration
	Wire        uint8 // major version of the wire format it speaks
	Donor       bool
	Goodbye     bool  // it leaves: no cells
	Part, Parts uint8 // this part, from 0, and how many the beat has
	Name        sdk.CellName
	Listeners   []Listener
	Cells       []Cell
	// Generation is [Table.Generation] from before it was opened: one of the
	// mesh before must not come in behind [Table.Clear].
	Generation uint64
}

// A Listener is where a node can be dialled, at the address it was seen from.
type Listener struct {
	Scheme string // the transport
	Port   uint16
	Hint   []byte // for [sdk.Addr].Hint
}

// A Cell is a cell that other machines may call.
type Cell struct {
	Name      sdk.CellName
	Replicas  uint16
	Listeners uint8 // set of indices into [Announcement].Listeners, bit 0 the first
}

// valid checks what the table's own bounds depend on.
func (a *Announcement) valid() bool {
	return a.Node != "" && a.TTL > 0 && a.Part < a.Parts && a.Parts <= sdk.MaxEnvelopes &&
		len(a.Listeners) <= 8 && len(a.Cells) <= MaxNodeCells && (!a.Goodbye || len(a.Cells) == 0)
}

func (l Listener) equal(m Listener) bool {
	return l.Scheme == m.Scheme && l.Port == m.Port && bytes.Equal(l.Hint, m.Hint)
}

// A floor is the newest that was heard of a node: what is not above it is old.
type floor struct {
	boot [16]byte
	seq  uint64
}

// A step says how an announcement stands to a floor.
type step uint8

const (
	stepBack   step = iota // an earlier boot, or a rival of a fresh one
	stepOld                // an earlier seq
	stepSame               // the same seq
	stepNext               // a later seq
	stepReborn             // a later boot
)

// compare tells how a stands to f. A boot with the same counter but another
// rest is of a node whose counter was lost or copied: it is believed when the
// one that is known is not fresh any more.
func (f floor) compare(a *Announcement, fresh bool) step {
	if f.boot != a.Boot {
		c := cmp.Compare(binary.BigEndian.Uint64(a.Boot[:8]), binary.BigEndian.Uint64(f.boot[:8]))
		if c < 0 || c == 0 && fresh {
			return stepBack
		}
		return stepReborn
	}
	return step(int(stepSame) + cmp.Compare(a.Seq, f.seq))
}

// A part is what one part of a beat said, the latest that arrived.
type part struct {
	seq       uint64
	arrived   time.Time // zero: never, or not believed any more
	until     time.Time
	listeners []Listener
	cells     []Cell
}

func (p *part) says(q part) bool {
	return !p.arrived.IsZero() && slices.Equal(p.cells, q.cells) && slices.EqualFunc(p.listeners, q.listeners, Listener.equal)
}
