package golgi

import (
	"context"
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
	addr   sdk.Addr
	key    []byte
	wanted string
	link   channel.Link
}

// routeTo finds out where an endpoint is, and whether s may go there.
func (g *Golgi) routeTo(s *seat, id uint64, m channel.Message) (route, error) {
	r := route{addr: g.opt.Local, key: g.opt.Key, wanted: m.Endpoint}
	r.link = channel.Link{ID: id, Outgoing: true, Endpoint: m.Endpoint, Cell: m.Name}
	g.mu.Lock()
	targets, failure := g.resolve(s, m.Name)
	other := g.byEndpoint(m.Endpoint)
	g.mu.Unlock()
	if failure != nil {
		return r, failure
	}
	for _, t := range targets {
		switch {
		case t.dir != "" && m.Endpoint == junctionPrefix+t.dir+"/"+string(t.cell):
			addr, key, err := g.opt.Junction(t.dir)
			if err != nil {
				return r, sdk.Errorf(sdk.CodeUnavailable, "dial %q: %v", m.Name, err)
			}
			r.addr, r.key, r.wanted = addr, key, string(t.cell)
			return r, nil
		case t.dir == "" && other != nil && other.id.Cell == t.cell && other != s:
			r.link.Local, r.link.Cell = true, t.cell
			return r, nil
		}
	}
	if strings.HasPrefix(m.Endpoint, junctionPrefix) || other != nil {
		return r, sdk.Errorf(sdk.CodeDenied, "dial %q: not an endpoint of %q", m.Endpoint, m.Name)
	}
	return r, sdk.Errorf(sdk.CodeUnavailable, "dial %q: it is gone", m.Endpoint)
}

// dial makes one link: connect, say who calls whom, hear that it is welcome.
func (g *Golgi) dial(s *seat, id uint64, m channel.Message) (*channel.Link, *os.File, error) {
	r, err := g.routeTo(s, id, m)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(g.ctx, dialWait)
	defer cancel()
	conn, err := g.opt.Dial(ctx, r.addr)
	if err != nil {
		return nil, nil, unavailable(err, "dial %q", m.Name)
	}
	defer conn.Close()
	if r.link.Local {
		g.mu.Lock()
		g.links[id] = &link{id: id, caller: s, from: s.id.Cell}
		g.mu.Unlock()
	}
	if err := g.knock(conn, s, r); err != nil {
		g.forgetLink(id)
		return nil, nil, unavailable(err, "dial %q", m.Name)
	}
	f, err := conn.(filer).File()
	if err != nil {
		return nil, nil, unavailable(err, "dial %q", m.Name)
	}
	return &r.link, f, nil
}

// forgetLink drops a link that nobody answers.
func (g *Golgi) forgetLink(id uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l := g.links[id]; l != nil && l.to == nil {
		delete(g.links, id)
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
func (g *Golgi) knock(conn net.Conn, s *seat, r route) error {
	if _, ok := conn.(filer); !ok {
		return fmt.Errorf("transport %q: its connections have no descriptor", r.addr.Scheme)
	}
	b, err := wire.AppendLinkHeader(nil, wire.LinkHeader{
		ID: r.link.ID, Node: g.opt.Run, Cell: string(s.id.Cell), Wanted: r.wanted, Binding: binding(conn),
	}, r.key)
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(headerWait)); err != nil {
		return err
	}
	if _, err := conn.Write(b); err != nil {
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
