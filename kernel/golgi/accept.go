package golgi

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// ServeLinks takes links from a listener until it is closed. Connections that
// do not say within five seconds what they want are closed; while too many
// of them wait, the listener's backlog does.
func (g *Golgi) ServeLinks(ln net.Listener) error {
	for {
		select {
		case g.gate <- struct{}{}:
		case <-g.ctx.Done():
			return nil
		}
		conn, err := ln.Accept()
		if err != nil {
			<-g.gate
			if errors.Is(err, net.ErrClosed) || g.ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept links: %w", err)
		}
		g.wg.Go(func() {
			defer func() { <-g.gate }()
			defer conn.Close()
			if err := g.accept(conn); err != nil {
				g.opt.Log.Warn("refused a link", "from", conn.RemoteAddr().String(), "error", err)
			}
		})
	}
}

// accept reads a link header, picks the replica and hands the link over.
func (g *Golgi) accept(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(headerWait)); err != nil {
		return err
	}
	h, err := readHeader(conn, g.opt.Key)
	if err != nil {
		// One answer for everything that is wrong: a stranger learns nothing.
		g.answer(conn, sdk.CodeDenied, "refused")
		return err
	}
	f, err := fileOf(conn)
	if err != nil {
		g.answer(conn, sdk.CodeInternal, err.Error())
		return err
	}
	g.mu.Lock()
	s, info, e := g.admit(h)
	g.mu.Unlock()
	if e != nil {
		f.Close()
		g.answer(conn, e.Code, e.Text)
		return nil // the caller knows; it is not a flaw
	}
	// The answer precedes every byte of the cell, which does not have the
	// descriptor yet.
	if _, err := conn.Write([]byte{0}); err != nil {
		f.Close()
		g.forgetServed(info.ID)
		return err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		f.Close()
		g.forgetServed(info.ID)
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, here := g.seats[s]; !here {
		f.Close()
		return nil // it died just now; the caller sees the end of input
	}
	s.put(channel.Message{Type: channel.TypeLink, Link: info}, f)
	return nil
}

func fileOf(conn net.Conn) (*os.File, error) {
	c, ok := conn.(filer)
	if !ok {
		return nil, errors.New("its transport's connections have no descriptor")
	}
	return c.File()
}

// readHeader reads exactly the bytes of a link header.
func readHeader(conn net.Conn, key []byte) (wire.LinkHeader, error) {
	b := make([]byte, 2, wire.MaxLinkHeader)
	if _, err := io.ReadFull(conn, b); err != nil {
		return wire.LinkHeader{}, fmt.Errorf("read link header: %w", err)
	}
	n, err := wire.LinkHeaderLen([2]byte(b))
	if err != nil {
		return wire.LinkHeader{}, err
	}
	b = b[:2+n]
	if _, err := io.ReadFull(conn, b[2:]); err != nil {
		return wire.LinkHeader{}, fmt.Errorf("read link header: %w", err)
	}
	return wire.ParseLinkHeader(b, binding(conn), key)
}

// answer refuses. The other side may be gone: then nobody reads it.
func (g *Golgi) answer(conn net.Conn, code sdk.Code, text string) {
	_, _ = conn.Write(wire.AppendRefusal(nil, uint8(code), text))
}

// admit decides about a link and counts it. The caller holds mu.
func (g *Golgi) admit(h wire.LinkHeader) (*seat, *channel.Link, *sdk.Error) {
	local := h.Node == g.opt.Run
	wanted, _, exact := strings.Cut(h.Wanted, "#")
	var s *seat
	if exact && local {
		s = g.byEndpoint(h.Wanted)
	} else if !exact {
		s = g.leastLinked(sdk.CellName(wanted))
	}
	if s == nil {
		return nil, nil, sdk.Errorf(sdk.CodeUnavailable, "route to %.80q: no replica is ready", h.Wanted)
	}
	if len(g.links) >= maxLinks {
		return nil, nil, sdk.Errorf(sdk.CodeOverloaded, "route to %.80q: %d links are open", h.Wanted, maxLinks)
	}
	l := &link{id: h.ID, from: sdk.CellName(h.Cell)}
	if local {
		// Both ends are ours only if this kernel is just opening that very link.
		l = g.links[h.ID]
		if l == nil || l.caller == nil || l.to != nil || string(l.from) != h.Cell {
			return nil, nil, sdk.Errorf(sdk.CodeDenied, "route to %.80q: unknown link", h.Wanted)
		}
	} else {
		if allow := g.routes[s.id.Cell].Allow; allow != nil && !allow[sdk.CellName(h.Cell)] {
			return nil, nil, sdk.Errorf(sdk.CodeDenied, "route to %.80q: %.80q is not in its allow list", h.Wanted, h.Cell)
		}
		g.nextID++
		l.id = g.nextID // ids of other kernels mean nothing here
		g.links[l.id] = l
	}
	l.to = s
	s.served++
	return s, &channel.Link{ID: l.id, Local: local, Cell: sdk.CellName(h.Cell)}, nil
}

// forgetServed takes back what admit counted.
func (g *Golgi) forgetServed(id uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l := g.links[id]; l != nil && l.to != nil {
		g.drop(l)
	}
}
