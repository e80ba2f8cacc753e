package golgi

import (
	"context"
	"slices"
	"time"

	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

// A foreign is what a kernel knows of the other end of a link that is not
// local: at first what is expected, once it is admitted what was proved.
type foreign struct {
	mesh     *identity.Mesh
	node     sdk.NodeID   // empty until it is proved where only an address was known
	claimed  sdk.NodeID   // of a link that came in: who its header is from
	cell     sdk.CellName // who calls, or who was called
	peers    []sdk.NodeID // who may answer; none is every member
	addr     sdk.Addr     // that was dialled
	scheme   string       // of the transport it came by
	since    time.Time    // when it began
	aged     bool         // it was asked to make way for another
	near     bool         // through a junction: not of the mesh between machines
	asked    bool         // a question about it is being answered
	admitted bool
	cut      bool // its ends were told to end it
}

// canEncrypt reports whether a process may have links that are not local.
func (s *seat) canEncrypt() bool { return s.key != [32]byte{} }

// certify makes what a process needs to secure one link.
func (s *seat) certify(mesh *identity.Mesh, header []byte, binding [32]byte) (*channel.Secure, error) {
	cert, err := mesh.CertifyCell(s.g.opt.Self, s.id.Cell, s.key, time.Now())
	if err != nil {
		return nil, err
	}
	id := mesh.ID()
	return &channel.Secure{Mesh: id[:], Header: header, Binding: binding[:], Certificate: cert}, nil
}

// question answers a process that asks about the other end of one of its
// links. The caller holds mu; signatures are checked without it.
func (g *Golgi) question(s *seat, m channel.Message) {
	l := g.links[m.ID]
	if l == nil || l.foreign == nil || l.foreign.admitted || l.foreign.asked || m.Proof == nil || l.to != s && l.caller != s || g.closed {
		s.put(channel.Message{Type: channel.TypeAdmitted, ID: m.ID, Failure: channel.FailureOf(
			sdk.Errorf(sdk.CodeDenied, "admit link %d: it is none of this cell's", m.ID))}, nil)
		return
	}
	f := *l.foreign
	l.foreign.asked = true // one at a time: signatures cost
	g.wg.Go(func() {
		cert, err := g.judge(f, m.Proof)
		if err == nil {
			err = g.bill(f, cert)
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		l.foreign.asked = false
		switch { // looked at again: things may have changed while the ends were at it
		case err != nil:
		case !f.near && f.mesh != g.mesh:
			err = errMeshReplaced
		case g.denied(cert.Node):
			err = errDenied(cert.Node)
		}
		answer := channel.Message{Type: channel.TypeAdmitted, ID: m.ID}
		if err != nil && f.node != "" && f.addr.Scheme != "" && g.opt.Peers != nil {
			g.opt.Peers.Failed(f.node, f.addr) // somebody else answers there
		}
		if err != nil {
			answer.Failure = channel.FailureOf(err)
			g.opt.Log.Warn("refused the other end of a link", "cell", s.String(), "other", string(f.cell), "error", err)
		} else {
			answer.Link = &channel.Link{ID: m.ID, Node: cert.Node, Cell: cert.Cell}
		}
		if err == nil && m.Proof.Hash != nil && g.links[l.id] == l && !l.foreign.admitted {
			l.foreign.node, l.foreign.admitted = cert.Node, true
			g.linked(l.foreign)
			g.begun(l)
			g.sendLeases(cert.Node) // before any call of this link
		}
		if _, here := g.seats[s]; here {
			s.put(answer, nil)
		}
	})
}

// judge says whether the other end of a link is who it should be, and may be.
func (g *Golgi) judge(f foreign, p *channel.Proof) (identity.Certificate, error) {
	cert, err := f.mesh.VerifyCell(p.Certificate, time.Now())
	switch {
	case err != nil:
		return cert, sdk.Errorf(sdk.CodeDenied, "%v", err)
	case string(cert.Key[:]) != string(p.Key):
		return cert, sdk.Errorf(sdk.CodeDenied, "verify certificate: it is for another key than was proved")
	case g.denied(cert.Node):
		return cert, errDenied(cert.Node)
	case f.node != "" && cert.Node != f.node:
		return cert, sdk.Errorf(sdk.CodeDenied, "node %s answered in the place of node %s", cert.Node, f.node)
	case cert.Cell != f.cell:
		return cert, sdk.Errorf(sdk.CodeDenied, "cell %q of node %s answered in the place of cell %q", cert.Cell, cert.Node, f.cell)
	case len(f.peers) > 0 && !slices.Contains(f.peers, cert.Node):
		return cert, sdk.Errorf(sdk.CodeDenied, "node %s answered, the axon's peers are %s", cert.Node, f.peers)
	}
	return cert, nil
}

// bill asks whether work over a link is paid for. Kernels talk for nothing, and
// so do those that a junction joins: they are of one user.
func (g *Golgi) bill(f foreign, cert identity.Certificate) error {
	if g.opt.Bill == nil || f.near || cert.Cell == sdk.GolgiName {
		return nil
	}
	return g.opt.Bill(g.ctx, cert.Node, f.addr.Host)
}

func errDenied(node sdk.NodeID) error {
	return sdk.Errorf(sdk.CodeDenied, "node %s is on the deny list", node)
}

func (g *Golgi) denied(node sdk.NodeID) bool { return g.opt.Denied != nil && g.opt.Denied(node) }

// linked notes that a link to another node is up. The caller holds mu.
func (g *Golgi) linked(f *foreign) {
	if g.opt.Peers == nil || f.near {
		return
	}
	g.opt.Peers.Pin(f.node)
	if f.addr.Scheme != "" {
		g.opt.Peers.Used(f.node, f.addr)
	}
}

// unlinked takes back what linked noted. The caller holds mu.
func (g *Golgi) unlinked(f *foreign) {
	if f == nil || !f.admitted || f.near {
		return
	}
	if len(g.partners) < maxPairs {
		g.partners[f.node] = time.Now()
	}
	if g.opt.Peers != nil {
		g.opt.Peers.Unpin(f.node)
	}
}

// Partners returns the nodes to which there is a link, or was one not long ago.
func (g *Golgi) Partners(within time.Duration) map[sdk.NodeID]bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make(map[sdk.NodeID]bool)
	for node, last := range g.partners {
		if time.Since(last) <= within {
			list[node] = true
		} else {
			delete(g.partners, node)
		}
	}
	for _, l := range g.links {
		if l.foreign != nil && l.foreign.admitted && l.foreign.mesh == g.mesh {
			list[l.foreign.node] = true
		}
	}
	return list
}

// Uses reports whether cells of this kernel have links to cells of a node.
func (g *Golgi) Uses(node sdk.NodeID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.links {
		if f := l.foreign; f != nil && f.admitted && !f.near && f.node == node && f.addr.Scheme != "" && f.cell != sdk.GolgiName {
			return true
		}
	}
	return false
}

// Linked reports whether there is any link between this node and another.
func (g *Golgi) Linked(node sdk.NodeID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.links {
		if f := l.foreign; f != nil && f.admitted && !f.near && f.node == node {
			return true
		}
	}
	return false
}

// renew has links that are older than half a certificate's life made anew,
// before what they were admitted by ends. Those whose caller does not let go
// are cut when it has.
func (g *Golgi) renew(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.links {
		f := l.foreign
		switch {
		case f == nil:
		case now.Sub(f.since) > identity.CertificateLife+identity.CertificateSlack:
			why := sdk.Errorf(sdk.CodeDenied, "the certificates of the link have ended")
			for _, s := range []*seat{l.caller, l.to} {
				if s != nil {
					s.cut(l.id, why)
				}
			}
		case !f.aged && now.Sub(f.since) > g.opt.LinkAge:
			f.aged = true
			l.release()
		}
	}
}

// release asks the process at this end of a link to let go of it when its
// calls have ended. The caller holds mu.
func (l *link) release() {
	for _, s := range []*seat{l.caller, l.to} {
		if s != nil {
			s.put(channel.Message{Type: channel.TypeRelease, ID: l.id}, nil)
		}
	}
}

// Release asks for all links that came by a transport to be made anew, and
// waits until they have ended or ctx is done. Calls in flight end first.
func (g *Golgi) Release(ctx context.Context, scheme string) {
	g.mu.Lock()
	wait := make(map[uint64]bool)
	for _, l := range g.links {
		if l.foreign != nil && l.foreign.scheme == scheme {
			wait[l.id] = true
			l.release()
		}
	}
	g.mu.Unlock()
	for {
		g.mu.Lock()
		for id := range wait {
			if g.links[id] == nil {
				delete(wait, id)
			}
		}
		dropped := g.dropped
		g.mu.Unlock()
		if len(wait) == 0 {
			return
		}
		select {
		case <-dropped:
		case <-ctx.Done():
			return
		}
	}
}

// Recheck ends all links to nodes that are on the deny list by now, and returns
// how many it ended.
func (g *Golgi) Recheck() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cutForeign(func(f *foreign) error {
		if f.node == "" || !g.denied(f.node) {
			return nil
		}
		return errDenied(f.node)
	})
}

var errMeshReplaced = sdk.Errorf(sdk.CodeDenied, "the mesh secret was replaced")

// SetMesh replaces the mesh of links between machines, ends those of the mesh
// before, and returns how many they were: who was not invited into the new one
// is out.
func (g *Golgi) SetMesh(m *identity.Mesh) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mesh = m
	return g.cutForeign(func(f *foreign) error {
		if f.near || f.mesh == m {
			return nil
		}
		return errMeshReplaced
	})
}

// cutForeign tells the processes to end the links for which why has a reason.
// The caller holds mu.
func (g *Golgi) cutForeign(why func(*foreign) error) int {
	n := 0
	for _, l := range g.links {
		if l.foreign == nil || l.foreign.cut {
			continue
		}
		err := why(l.foreign)
		if err == nil {
			continue
		}
		l.foreign.cut = true
		n++
		for _, s := range []*seat{l.caller, l.to} {
			if s != nil {
				s.cut(l.id, err)
			}
		}
	}
	return n
}

// revokeWait is how long calls of who may not call any more go on.
const revokeWait = 10 * time.Second

// revoke ends a link whose caller may not call any more: when its calls have
// ended, or, if the caller does not let go of it, after a while. The caller
// holds mu.
func (g *Golgi) revoke(l *link) {
	s, cell := l.to, l.to.id.Cell
	l.release()
	g.wg.Go(func() {
		timer := time.NewTimer(revokeWait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-g.ctx.Done():
			return
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.links[l.id] == l && l.to == s && !g.mayCall(l, cell) {
			s.cut(l.id, sdk.Errorf(sdk.CodeDenied, "cell %q does not allow %q to call it any more", cell, l.from))
		}
	})
}

// cut tells a process to end a link. The caller holds Golgi.mu.
func (s *seat) cut(id uint64, why error) {
	s.put(channel.Message{Type: channel.TypeCut, ID: id, Failure: channel.FailureOf(why)}, nil)
}
