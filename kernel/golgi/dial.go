package golgi

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// A filer is a connection whose descriptor can be handed over.
type filer interface{ File() (*os.File, error) }

// dialFor opens a link that a process asked for. The caller holds mu.
func (g *Golgi) dialFor(s *seat, m channel.Message) error {
	if s.dials >= maxDials {
		s.refuse(m.ID, sdk.Errorf(sdk.CodeOverloaded, "dial %q: %d dials are under way", m.Endpoint, maxDials))
		return nil
	}
	if g.closed {
		return nil
	}
	s.dials++
	g.nextID++
	id := g.nextID
	g.wg.Go(func() {
		l, f, err := g.dial(s, id, m)
		g.mu.Lock()
		defer g.mu.Unlock()
		s.dials--
		if _, here := g.seats[s]; !here {
			closeIf(f)
			g.forgetOutgoing(id)
			return
		}
		if err != nil {
			s.refuse(m.ID, err)
			return
		}
		s.put(channel.Message{Type: channel.TypeLink, ID: m.ID, Link: l}, f)
	})
	return nil
}

func closeIf(f *os.File) {
	if f != nil {
		f.Close()
	}
}

func (s *seat) refuse(id uint64, err error) {
	s.put(channel.Message{Type: channel.TypeRefused, ID: id, Failure: channel.FailureOf(err)}, nil)
}

// A route is what a dial needs to know.
type route struct {
	id     uint64 // of the link
	from   *seat
	to     endpoint
	wanted string          // as the link header says it
	addrs  []sdk.Addr      // best first
	node   string          // who this kernel is, as the link header says it
	mesh   *identity.Mesh  // whose key seals the header
	link   channel.Link    // for the caller
	header wire.LinkHeader // as it was sent
	sent   []byte          // its bytes
}

// routeTo finds out where an endpoint is, and whether s may go there.
func (g *Golgi) routeTo(s *seat, id uint64, m channel.Message) (*route, error) {
	g.mu.Lock()
	list, failure := g.endpoints(s, m.Name)
	mesh := g.mesh
	g.mu.Unlock()
	if failure != nil {
		return nil, failure
	}
	i := slices.IndexFunc(list, func(e endpoint) bool { return e.id == m.Endpoint })
	if i < 0 {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "dial %q: %.80q is not, or no longer, an endpoint of it", m.Name, m.Endpoint)
	}
	r := &route{id: id, from: s, to: list[i], wanted: string(list[i].cell), node: string(g.opt.Self.Node()), mesh: mesh}
	r.link = channel.Link{ID: id, Outgoing: true, Endpoint: m.Endpoint, Cell: r.to.cell}
	switch e := r.to; {
	case e.seat != nil:
		r.link.Local, r.wanted, r.node = true, e.id, g.opt.Run
		r.addrs, r.mesh = []sdk.Addr{g.opt.Local}, g.opt.Home
	case e.dir != "":
		addr, mesh, err := g.opt.Junction(e.dir)
		if err != nil {
			return nil, sdk.Errorf(sdk.CodeUnavailable, "dial %q: %v", m.Name, err)
		}
		r.addrs, r.mesh = []sdk.Addr{addr}, mesh
	case e.host != "":
		r.addrs = []sdk.Addr{{Scheme: g.opt.Scheme, Host: e.host}}
	default:
		r.addrs = g.opt.Peers.Addrs(e.node, e.cell)
	}
	if len(r.addrs) == 0 || r.mesh == nil {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "dial %q: node %s has no address that a transport of this kernel can dial", m.Name, r.to.node)
	}
	return r, nil
}

// dial makes one link: connect, say who calls whom, hear that it is welcome.
func (g *Golgi) dial(s *seat, id uint64, m channel.Message) (*channel.Link, *os.File, error) {
	r, err := g.routeTo(s, id, m)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(g.ctx, dialWait)
	defer cancel()
	conn, addr, err := g.connect(ctx, r)
	if err != nil {
		return nil, nil, unavailable(err, "dial %q", m.Name)
	}
	defer conn.Close()
	defer context.AfterFunc(g.ctx, func() { conn.Close() })()
	if err := g.expect(r, addr); err != nil {
		return nil, nil, err
	}
	f, err := g.knockFor(conn, r)
	if err != nil {
		g.mu.Lock()
		g.forgetOutgoing(id)
		g.mu.Unlock()
		if c := sdk.CodeOf(err); c != sdk.CodeUnavailable && c != sdk.CodeOverloaded { // else it is the right one, and busy
			g.tried(r, addr, err)
		}
		return nil, nil, unavailable(err, "dial %q", m.Name)
	}
	return &r.link, f, nil
}

// knockFor knocks and returns the descriptor for the caller.
func (g *Golgi) knockFor(conn net.Conn, r *route) (*os.File, error) {
	if err := g.knock(conn, r); err != nil {
		return nil, err
	}
	if !r.link.Local {
		secure, err := r.from.certify(r.mesh, r.sent, r.header.Binding)
		if err != nil {
			return nil, err
		}
		r.link.Secure = secure
	}
	return conn.(filer).File()
}

// expect notes a link that is about to be made. Of a local one it is the
// mark by which the other end knows it.
func (g *Golgi) expect(r *route, addr sdk.Addr) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, here := g.seats[r.from]; !here && r.from.ch != nil { // not a stand-in
		return sdk.Errorf(sdk.CodeUnavailable, "dial %q: the caller is gone", r.to.cell) // its queue is closed
	}
	if len(g.links) >= maxLinks {
		return sdk.Errorf(sdk.CodeOverloaded, "dial %q: %d links are open", r.to.cell, maxLinks)
	}
	l := &link{id: r.id, caller: r.from, from: r.from.id.Cell}
	if !r.link.Local {
		l.foreign = &foreign{mesh: r.mesh, near: r.to.dir != "", node: r.to.node, cell: r.to.cell, peers: r.to.peers, addr: addr, scheme: addr.Scheme, since: time.Now()}
	}
	g.links[r.id] = l
	return nil
}

// forgetOutgoing drops a link that nobody answers any more. The caller holds mu.
func (g *Golgi) forgetOutgoing(id uint64) {
	if l := g.links[id]; l != nil && l.to == nil {
		g.drop(l)
	}
}

func unavailable(err error, format string, args ...any) error {
	e := sdk.AsError(err)
	code := e.Code
	if code == sdk.CodeApplication || code == sdk.CodeCancelled {
		code = sdk.CodeUnavailable
	}
	return &sdk.Error{Code: code, Executed: sdk.ExecutedNo, Text: fmt.Sprintf(format, args...) + ": " + e.Text}
}

// knock writes the link header and reads the answer.
func (g *Golgi) knock(conn net.Conn, r *route) error {
	if _, ok := conn.(filer); !ok {
		return fmt.Errorf("transport %q: its connections have no descriptor", r.addrs[0].Scheme)
	}
	r.header = wire.LinkHeader{ID: r.id, Node: r.node, Cell: string(r.from.id.Cell), Wanted: r.wanted, Binding: binding(conn)}
	if err := r.prove(g.opt.Self); err != nil {
		return err
	}
	var err error
	if r.sent, err = wire.AppendLinkHeader(nil, r.header, r.mesh.LinkKey()); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(headerWait)); err != nil {
		return err
	}
	if _, err := conn.Write(r.sent); err != nil {
		return err
	}
	var code [1]byte
	if _, err := io.ReadFull(conn, code[:]); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if code[0] != 0 {
		return readRefusal(conn, sdk.Code(code[0]))
	}
	return conn.SetDeadline(time.Time{})
}

// prove signs the header of a link to another node. On one machine, and through
// junctions, nodes are of one user.
func (r *route) prove(self *identity.Identity) error {
	if r.link.Local || r.to.dir != "" {
		return nil
	}
	statement, err := r.header.Statement()
	if err != nil {
		return err
	}
	r.header.Proof = r.mesh.ProveLink(self, statement)
	return nil
}

func readRefusal(conn net.Conn, code sdk.Code) error {
	var n [1]byte
	if _, err := io.ReadFull(conn, n[:]); err != nil {
		return fmt.Errorf("read refusal: %w", err)
	}
	text := make([]byte, n[0])
	if _, err := io.ReadFull(conn, text); err != nil {
		return fmt.Errorf("read refusal: %w", err)
	}
	return &sdk.Error{Code: code, Executed: sdk.ExecutedNo, Text: string(text)}
}

// binding is the channel binding of a connection, zero where it has none.
func binding(conn net.Conn) [32]byte {
	if b, ok := conn.(sdk.Binder); ok {
		return b.ChannelBinding()
	}
	return [32]byte{}
}
