package golgi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// A Door is a listener by which links come in.
type Door struct {
	// Name is what [Routes].Doors calls it. The one door without a name is for
	// this machine: links among own cells, and through junctions.
	Name string
}

// ServeLinks takes links from a listener until it is closed. Connections that
// do not say within five seconds what they want are closed; how many of them
// may wait is bounded in all, and for each address they come from.
func (g *Golgi) ServeLinks(ln net.Listener, d Door) error {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) || err != nil && g.ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept links: %w", err)
		}
		from := sourceOf(conn, d)
		v, out := g.gate.enter(g.ctx, from, conn)
		if v == nil {
			conn.Close()
			continue
		}
		if out != nil {
			g.turnAway(out)
			g.refused.warn(g.opt.Log, "too many connections wait at the door: the oldest made room", "of", out.from, "for", from)
		}
		g.wg.Go(func() {
			defer g.gate.leave(v)
			defer conn.Close()
			defer context.AfterFunc(g.ctx, func() { conn.Close() })() // nobody holds up our end
			if err := g.accept(v, d); err != nil && !errors.Is(err, net.ErrClosed) {
				g.refused.warn(g.opt.Log, "refused a link", "from", conn.RemoteAddr().String(), "error", err)
			}
		})
	}
}

// turnAway refuses a connection that makes room for another, without waiting
// for it: as a rule there is room for an answer where nothing was written yet.
func (g *Golgi) turnAway(v *visitor) {
	_ = v.conn.SetWriteDeadline(time.Now().Add(time.Millisecond)) // the answer is a favour
	g.answer(v.conn, sdk.CodeOverloaded, "too many connections wait at the door")
	v.conn.Close()
}

// accept reads what a connection wants: a link, or to join the mesh.
func (g *Golgi) accept(v *visitor, d Door) error {
	conn := v.conn
	if err := conn.SetDeadline(time.Now().Add(headerWait)); err != nil {
		return err
	}
	var first [2]byte
	if _, err := io.ReadFull(conn, first[:]); errors.Is(err, io.EOF) {
		return nil // who dialled wanted to know whether we are here: see Reach
	} else if err != nil {
		return fmt.Errorf("read link header: %w", err)
	}
	if d.Name != "" && identity.IsJoin(first) && g.opt.Join != nil {
		return g.opt.Join(g.ctx, conn)
	}
	mesh := g.meshOf(d)
	h, sent, err := readHeader(conn, first, mesh)
	if err != nil {
		// One answer for everything that is wrong: a stranger learns nothing.
		g.answer(conn, sdk.CodeDenied, "refused")
		return err
	}
	if d.Name != "" {
		g.gate.leave(v) // a member makes room for no stranger
	}
	if err := verifyProof(d, mesh, h); err != nil {
		g.answer(conn, sdk.CodeDenied, err.Error())
		return err
	}
	return g.acceptLink(conn, d, mesh, h, sent)
}

// verifyProof makes sure that a link from another machine is of the node that
// its header names: whom it is charged to, and who is denied. A member that
// may be told why has sealed the header.
func verifyProof(d Door, mesh *identity.Mesh, h wire.LinkHeader) error {
	if d.Name == "" {
		return nil
	}
	node, err := sdk.ParseNodeID(h.Node)
	if err != nil {
		return sdk.Errorf(sdk.CodeDenied, "verify link header: it names no node")
	}
	statement, err := h.Statement()
	if err != nil {
		return err
	}
	return mesh.VerifyLink(node, statement, h.Proof)
}

// meshOf returns the mesh of links that come in by a door.
func (g *Golgi) meshOf(d Door) *identity.Mesh {
	if d.Name == "" {
		return g.opt.Home
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mesh
}

// acceptLink picks the replica and hands the link over.
func (g *Golgi) acceptLink(conn net.Conn, d Door, mesh *identity.Mesh, h wire.LinkHeader, sent []byte) error {
	f, err := fileOf(conn)
	if err != nil {
		g.answer(conn, sdk.CodeInternal, err.Error())
		return err
	}
	g.mu.Lock()
	s, info, e := g.admit(h, d, mesh)
	g.mu.Unlock()
	if e != nil {
		f.Close()
		g.answer(conn, e.Code, e.Text)
		return nil // the caller knows; it is not a flaw
	}
	if !info.Local {
		if info.Secure, err = s.certify(mesh, sent, h.Binding); err != nil {
			g.answer(conn, sdk.CodeInternal, "certify cell")
		}
	}
	if err == nil {
		// The answer precedes every byte of the cell, which does not have the
		// descriptor yet.
		_, err = conn.Write([]byte{0})
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
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

// readHeader reads exactly the bytes of a link header, of which first is read.
func readHeader(conn net.Conn, first [2]byte, mesh *identity.Mesh) (h wire.LinkHeader, sent []byte, err error) {
	n, err := wire.LinkHeaderLen(first)
	if err != nil {
		return h, nil, err
	}
	b := append(make([]byte, 0, 2+n), first[:]...)[:2+n]
	if _, err := io.ReadFull(conn, b[2:]); err != nil {
		return h, nil, fmt.Errorf("read link header: %w", err)
	}
	if mesh == nil {
		return h, nil, errors.New("read link header: this node is in no mesh")
	}
	h, err = wire.ParseLinkHeader(b, binding(conn), mesh.LinkKey())
	return h, b, err
}

// answer refuses. The other side may be gone: then nobody reads it.
func (g *Golgi) answer(conn net.Conn, code sdk.Code, text string) {
	_, _ = conn.Write(wire.AppendRefusal(nil, uint8(code), text))
}

// admit decides about a link and counts it. The caller holds mu.
func (g *Golgi) admit(h wire.LinkHeader, d Door, mesh *identity.Mesh) (*seat, *channel.Link, *sdk.Error) {
	local := d.Name == "" && h.Node == g.opt.Run
	// An endpoint is "worker#2@7", or of the kernel itself "golgi@0".
	exact := strings.ContainsAny(h.Wanted, "#@")
	var s *seat
	if exact && local {
		s = g.byEndpoint(h.Wanted)
	} else if !exact && g.reachable(sdk.CellName(h.Wanted), d) {
		s = g.leastLinked(sdk.CellName(h.Wanted))
	}
	if s == nil || !local && !s.canEncrypt() {
		return nil, nil, sdk.Errorf(sdk.CodeUnavailable, "route to %.80q: no replica is ready", h.Wanted)
	}
	if len(g.links) >= maxLinks {
		return nil, nil, sdk.Errorf(sdk.CodeOverloaded, "route to %.80q: %d links are open", h.Wanted, maxLinks)
	}
	l := g.links[h.ID]
	if local {
		// Both ends are ours only if this kernel is just opening that very link.
		if l == nil || l.caller == nil || l.to != nil || l.foreign != nil || string(l.from) != h.Cell {
			return nil, nil, sdk.Errorf(sdk.CodeDenied, "route to %.80q: unknown link", h.Wanted)
		}
		l.to = s
		s.served++
		return s, &channel.Link{ID: l.id, Local: true, Cell: l.from}, nil
	}
	l, e := g.admitForeign(h, s, mesh)
	if e != nil {
		return nil, nil, e
	}
	l.foreign.scheme, _, _ = strings.Cut(d.Name, "://")
	s.served++
	return s, &channel.Link{ID: l.id, Node: l.foreign.node, Cell: l.from}, nil
}

// admitForeign decides about a link from another kernel, which has proved to
// be of the mesh and, but through a junction, which node it is; which cell it is
// will be proved by its certificate. The caller holds mu.
func (g *Golgi) admitForeign(h wire.LinkHeader, s *seat, mesh *identity.Mesh) (*link, *sdk.Error) {
	node, err := sdk.ParseNodeID(h.Node)
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeDenied, "route to %.80q: the caller names no node", h.Wanted)
	}
	if g.denied(node) {
		return nil, sdk.Errorf(sdk.CodeDenied, "route to %.80q: node %s is on the deny list", h.Wanted, node)
	}
	if _, err := sdk.ParseCellName(h.Cell); err != nil {
		return nil, sdk.Errorf(sdk.CodeDenied, "route to %.80q: the caller names no cell", h.Wanted)
	}
	l := &link{from: sdk.CellName(h.Cell), to: s, foreign: &foreign{mesh: mesh, near: mesh == g.opt.Home, node: node, claimed: node, cell: sdk.CellName(h.Cell), since: time.Now()}}
	if !g.mayCall(l, s.id.Cell) {
		return nil, sdk.Errorf(sdk.CodeDenied, "route to %.80q: its allow list has neither %.80q nor node %s", h.Wanted, h.Cell, node)
	}
	if g.comers >= maxLinks/2 || g.from[node] >= maxFromNode {
		return nil, sdk.Errorf(sdk.CodeOverloaded, "route to %.80q: %d links of node %s, %d of all others are open", h.Wanted, g.from[node], node, g.comers-g.from[node])
	}
	g.comers++
	g.from[node]++
	g.nextID++
	l.id = g.nextID // ids of other kernels mean nothing here
	g.links[l.id] = l
	return l, nil
}

// maxFromNode bounds the links that come in from one node, so that no member
// can keep the others out. Half of all links are for this node's own cells.
const maxFromNode = 8192

// uncount takes back that a link came in from a node. The caller holds mu.
func (g *Golgi) uncount(node sdk.NodeID) {
	g.comers--
	if g.from[node]--; g.from[node] == 0 {
		delete(g.from, node)
	}
}

// reachable reports whether a cell can be called through a door. The caller
// holds mu.
func (g *Golgi) reachable(cell sdk.CellName, d Door) bool {
	return d.Name == "" || cell == sdk.GolgiName || slices.Contains(g.routes[cell].Doors, d.Name)
}

// forgetServed takes back what admit counted.
func (g *Golgi) forgetServed(id uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l := g.links[id]; l != nil && l.to != nil {
		g.drop(l)
	}
}
