package peers

import (
	"net/netip"
	"time"
)

// Limits of foreign announcements.
const (
	MaxForeign      = 256 // rows
	MaxForeignPerIP = 8   // rows of one IP address
)

// foreign is who announces what nobody here can open: other meshes, and what
// anybody may make up. It is small, and its rows push out each other: the one
// of the same address if that has too many, else the oldest. A scan of all
// rows is cheaper than any index is worth.
type foreign struct {
	rows  []stranger
	total uint64
}

type stranger struct {
	tag    [8]byte
	source string
	at     netip.AddrPort
	seen   time.Time
}

// Foreign notes an envelope that is of another mesh or not authentic, by its
// tag, which anybody can write.
func (t *Table) Foreign(source, origin string, tag [8]byte) {
	at := parseOrigin(origin)
	now := t.lock()
	defer t.mu.Unlock()
	if t.heardFrom(source, now) {
		t.foreign.note(stranger{tag, source, at, now})
	}
}

func (f *foreign) note(s stranger) {
	f.total++
	if !s.at.IsValid() {
		return
	}
	oldest, own, owns := 0, -1, 0
	for i := range f.rows {
		r := &f.rows[i]
		if r.at.Addr() == s.at.Addr() {
			if r.tag == s.tag {
				*r = s
				return
			}
			if owns++; own < 0 || r.seen.Before(f.rows[own].seen) {
				own = i
			}
		}
		if r.seen.Before(f.rows[oldest].seen) {
			oldest = i
		}
	}
	switch {
	case owns >= MaxForeignPerIP:
		f.rows[own] = s
	case len(f.rows) < MaxForeign:
		f.rows = append(f.rows, s)
	default:
		f.rows[oldest] = s
	}
}
