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
// anybody may make up. It is small, and its rows push out only each other: one
// of the same address if that has too many, else they take turns.
type foreign struct {
	rows  []stranger
	index map[strangerKey]int // into rows
	perIP map[netip.Addr]int  // rows
	hand  int                 // the row whose turn it is
	total uint64
}

type strangerKey struct {
	ip  netip.Addr
	tag [8]byte
}

type stranger struct {
	strangerKey
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
		t.foreign.note(stranger{strangerKey{at.at.Addr(), tag}, source, at.at, now})
	}
}

func (f *foreign) note(s stranger) {
	f.total++
	if !s.at.IsValid() {
		return
	}
	if i, ok := f.index[s.strangerKey]; ok {
		f.rows[i] = s
		return
	}
	if f.index == nil {
		f.index, f.perIP = map[strangerKey]int{}, map[netip.Addr]int{}
	}
	i := f.slot(s.ip)
	if i == len(f.rows) {
		f.rows = append(f.rows, s)
	} else {
		old := f.rows[i].strangerKey
		delete(f.index, old)
		if f.perIP[old.ip]--; f.perIP[old.ip] == 0 {
			delete(f.perIP, old.ip)
		}
		f.rows[i] = s
	}
	f.index[s.strangerKey] = i
	f.perIP[s.ip]++
}

// slot returns where a new row of an address goes.
func (f *foreign) slot(ip netip.Addr) int {
	if f.perIP[ip] >= MaxForeignPerIP {
		own := -1
		for i := range f.rows {
			if f.rows[i].ip == ip && (own < 0 || f.rows[i].seen.Before(f.rows[own].seen)) {
				own = i
			}
		}
		return own
	}
	if len(f.rows) < MaxForeign {
		return len(f.rows)
	}
	f.hand = (f.hand + 1) % MaxForeign
	return f.hand
}
