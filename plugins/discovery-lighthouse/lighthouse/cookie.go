package lighthouse

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/datagram"
)

// cookieTurn is how often the key of cookies changes. A cookie is good until
// the second change after it was made.
const cookieTurn = time.Minute

// A jar makes cookies and knows them again without keeping any.
type jar struct {
	now, before [32]byte // keys
	turned      time.Time
}

func newJar(now time.Time) *jar {
	j := &jar{turned: now}
	rand.Read(j.now[:])
	rand.Read(j.before[:])
	return j
}

// turn changes the key when it is time.
func (j *jar) turn(now time.Time) {
	for i := 0; i < 2 && now.Sub(j.turned) >= cookieTurn; i++ {
		j.before = j.now
		rand.Read(j.now[:])
		j.turned = j.turned.Add(cookieTurn)
	}
	if now.Sub(j.turned) >= cookieTurn {
		j.turned = now
	}
}

func (j *jar) cookie(a netip.AddrPort) datagram.Cookie { return bake(&j.now, a) }

func (j *jar) knows(a netip.AddrPort, c datagram.Cookie) bool {
	now, before := bake(&j.now, a), bake(&j.before, a)
	return hmac.Equal(c[:], now[:]) || hmac.Equal(c[:], before[:])
}

func bake(key *[32]byte, a netip.AddrPort) datagram.Cookie {
	h := hmac.New(sha256.New, key[:])
	ip := a.Addr().As16()
	h.Write(binary.LittleEndian.AppendUint16(ip[:], a.Port()))
	return datagram.Cookie(h.Sum(nil))
}
