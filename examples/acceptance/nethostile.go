package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
	"github.com/cellkernel/cellkernel/examples/acceptance/netprobe"
	"github.com/cellkernel/cellkernel/examples/netlab"
)

const (
	forged      = 1_000_000
	groupIP     = "239.255.0.1"
	groupPort   = 9099
	udpPayload  = 14 + 20 + 8 // of a frame without options
	forgedBound = 32 << 20    // bytes
)

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
	sent := 0
	during, err := p.measured(ctx, func() (err error) {
		sent, err = flood(ctx, evil, said)
		return err
	})
	if err != nil {
		return err
	}
	more, err := p.memory(ctx)
	if err != nil {
		return err
	}
	more -= rss
	_, list, err := peersOf(ctx, p.kNear)
	if err != nil {
		return err
	}
	verified, foreign := 0, 0
	for _, x := range list {
		switch {
		case x.State == "verified" && x.Name == "far" && x.Routable:
			verified++
		default:
			foreign++
		}
	}
	ratio := during.P99US / before.P99US
	f.add("forged-route", verified == 1 && during.Failed() == 0 && during.Share("far") == 1, "%d packets: %d verified, %d of %d calls failed %s", sent, verified, during.Failed(), during.Calls, strings.Join(during.Texts, "; "))
	f.add("forged-table", foreign <= 64, "%d", foreign)
	f.add("forged-memory", more <= forgedBound, "%.1f MiB", float64(more)/(1<<20))
	f.add("forged-p99", ratio <= 2, "%.1f (%.0f us, %.0f us)", ratio, before.P99US, during.P99US)
	return nil
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

// overhear collects what nodes announce, for three beats.
func overhear(ctx context.Context, h *netlab.Host) (said [][]byte, err error) {
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
		if len(x.Data) > udpPayload && bytes.Equal(x.Data[30:34], net.ParseIP(groupIP).To4()) && binary.BigEndian.Uint16(x.Data[36:38]) == groupPort {
			said = append(said, x.Data[udpPayload:])
		}
	}
	if len(said) < 4 {
		err = errors.New("overhear announcements: there are none")
	}
	return said, err
}

// flood sends replayed, altered and made up announcements in turn.
func flood(ctx context.Context, h *netlab.Host, said [][]byte) (sent int, err error) {
	c, err := h.ListenPacket("udp4", ":0")
	if err != nil {
		return 0, err
	}
	defer c.Close()
	to := &net.UDPAddr{IP: net.ParseIP(groupIP), Port: groupPort}
	r := rand.New(rand.NewPCG(1, 2))
	for ; sent < forged && ctx.Err() == nil; sent++ {
		b := slices.Clone(said[r.IntN(len(said))])
		switch sent % 3 {
		case 1:
			b[r.IntN(len(b))] ^= byte(1 << r.IntN(8))
		case 2: // another tag, nonce or text, of any length
			for i := min(4, len(b)-1); i < len(b); i++ {
				b[i] = byte(r.Uint32())
			}
		}
		if _, err := c.WriteTo(b, to); err != nil {
			return sent, err
		}
	}
	return sent, ctx.Err()
}
