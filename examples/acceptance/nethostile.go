package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
	"github.com/cellkernel/cellkernel/examples/acceptance/netprobe"
	"github.com/cellkernel/cellkernel/examples/netlab"
)

const (
	forged      = 1_000_000
	forgedRate  = 20_000 // a second: with 300 B each half of what a link of 100 Mbit/s carries
	forgedHosts = 40_000 // addresses they come from
	forgedBound = 32 << 20
	maxForeign  = 256 + 1 // rows of those who can not be understood, and of the other node
	groupPort   = 9099
	udpPayload  = 14 + headers // of a frame
)

// groupIP is where announcements go.
func groupIP() netip.Addr { return netip.AddrFrom4([4]byte{239, 255, 0, 1}) }

// tryForged has a host flood the group with what others have said, altered
// and made up.
func tryForged(ctx context.Context, l *lab.Lab, f findings) (err error) {
	p, err := newPair(ctx, l, netlab.V4)
	if err != nil {
		return err
	}
	defer p.end(&err)
	evil, err := p.Host("evil", netlab.V4)
	if err != nil {
		return err
	}
	said, err := overhear(ctx, p.near.Host)
	if err != nil {
		return err
	}
	before, err := p.measured(ctx, func() error { return pause(ctx, 10*time.Second) })
	if err != nil {
		return err
	}
	rss, err := p.memory(ctx)
	if err != nil {
		return err
	}
	heard, err := p.heard(ctx)
	if err != nil {
		return err
	}
	table := watchTables(ctx, 100*time.Millisecond, p.kNear, p.kFar)
	table.up("far")
	table.up("near")
	sent := 0
	during, err := p.measured(ctx, func() (err error) {
		sent, err = flood(ctx, evil, said)
		return err
	})
	seen, lookErr := table.end()
	if err := errors.Join(err, lookErr); err != nil {
		return err
	}
	more, err := p.memory(ctx)
	if err != nil {
		return err
	}
	more -= rss
	now, err := p.heard(ctx)
	if err != nil {
		return err
	}
	ratio := during.P99US / before.P99US
	f.add("forged-route", during.Failed() == 0 && during.Share("far") == 1, "%d packets, %d read by the plugins, %d opened by the kernel: %d of %d calls failed %s",
		sent, now.read-heard.read, now.opened-heard.opened, during.Failed(), during.Calls, strings.Join(during.Texts, "; "))
	f.add("forged-verified", seen.missing == 0 && seen.looks > 100, "%d of %d looks", seen.missing, seen.looks)
	f.add("forged-table", seen.most <= maxForeign, "%d", seen.most)
	f.add("forged-memory", more <= forgedBound, "%.1f MiB", float64(more)/(1<<20))
	f.add("forged-p99", ratio <= 2, "%.1f (%.0f us, %.0f us)", ratio, before.P99US, during.P99US)
	return nil
}

// A hearing is how far datagrams have come on the near host.
type hearing struct {
	read   int // by its sockets, those of QUIC among them
	opened int // by its kernel, which has tried to open what a plugin told it
}

func (p *pair) heard(ctx context.Context) (hearing, error) {
	read, err := p.near.Host.Datagrams()
	if err != nil {
		return hearing{}, err
	}
	m, err := p.kNear.Metrics(ctx)
	if err != nil {
		return hearing{}, err
	}
	opened := 0.0
	for series, n := range m {
		if strings.HasPrefix(series, "cellkernel_announcements_total{") {
			opened += n
		}
	}
	return hearing{int(read), int(opened)}, nil
}

// measured makes 200 calls/s while do runs.
func (p *pair) measured(ctx context.Context, do func() error) (*netprobe.Report, error) {
	if err := load(ctx, p.kNear, netprobe.Plan{Cell: "far", Rate: cutRate, MS: 5000}); err != nil {
		return nil, err
	}
	err := do()
	r, uerr := unload(ctx, p.kNear)
	return r, errors.Join(err, uerr)
}

// memory is what the kernel and its plugins hold.
func (p *pair) memory(ctx context.Context) (sum int64, err error) {
	list, err := p.kNear.PS(ctx)
	for _, x := range list {
		if x.Kind != "cell" {
			sum += x.RSSBytes
		}
	}
	return sum, err
}

// An announcement is what a node said, and from where.
type announcement struct {
	from netip.AddrPort
	text []byte
}

// overhear collects what nodes announce, for three beats.
func overhear(ctx context.Context, h *netlab.Host) (said []announcement, err error) {
	c, err := h.Capture()
	if err != nil {
		return nil, err
	}
	err = pause(ctx, 9*time.Second)
	frames, serr := c.Stop()
	if err := errors.Join(err, serr); err != nil {
		return nil, err
	}
	for _, x := range frames {
		if a, ok := announced(x); ok {
			said = append(said, a)
		}
	}
	if len(said) < 4 {
		err = errors.New("overhear announcements: there are none")
	}
	return said, err
}

// announced reports whether a frame is an announcement, and of whom.
func announced(x netlab.Frame) (a announcement, ok bool) {
	if len(x.Data) <= udpPayload || !bytes.Equal(x.Data[30:34], groupIP().AsSlice()) || binary.BigEndian.Uint16(x.Data[36:38]) != groupPort {
		return a, false
	}
	from := netip.AddrPortFrom(netip.AddrFrom4([4]byte(x.Data[26:30])), binary.BigEndian.Uint16(x.Data[34:36]))
	return announcement{from, x.Data[udpPayload:]}, true
}

// flood sends replayed, altered and made up announcements, and goodbyes, at a
// steady rate: one of eight as if it came from a node that is there.
func flood(ctx context.Context, h *netlab.Host, said []announcement) (sent int, err error) {
	forge, err := newForger(h, groupIP())
	if err != nil {
		return 0, err
	}
	defer forge.close()
	r := rand.New(rand.NewPCG(1, 2))
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for sent < forged {
		select {
		case <-ctx.Done():
			return sent, ctx.Err()
		case <-tick.C:
		}
		for range forgedRate / 200 {
			a := said[r.IntN(len(said))]
			from := nobody(forgedHosts)
			if sent%8 == 0 {
				from = a.from
			}
			if err := forge.send(from, groupPort, fake(r, a.text)); err != nil {
				return sent, err
			}
			sent++
		}
	}
	return sent, nil
}

// fake is an announcement as it was, or with a bit changed, or of this mesh by
// its tag and otherwise noise, or noise; or a goodbye.
func fake(r *rand.Rand, text []byte) []byte {
	b := slices.Clone(text)
	from := len(b)
	switch r.IntN(5) {
	case 1:
		b[r.IntN(len(b))] ^= byte(1 << r.IntN(8))
	case 2:
		from = 12 // behind the tag
	case 3:
		from = 0
	case 4:
		return nil
	}
	for i := from; i < len(b); i++ {
		b[i] = byte(r.Uint32())
	}
	return b
}
