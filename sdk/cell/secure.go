package cell

import (
	"context"
	"errors"
	"fmt"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/cellkernel/cellkernel/sdk/synapse"
)

// maxSecuring bounds handshakes of links to serve that are under way: each
// takes at most [synapse.Budget]. Those of one node leave room for others.
const (
	maxSecuring     = 256
	maxSecuringNode = 64
)

// secure runs the handshake of a link that is not local, before anything else
// is sent or read. It blocks; a local link is ready at once.
func (l *link) secure() error {
	if l.info.Local {
		return nil
	}
	s := l.info.Secure
	if s == nil || len(s.Mesh) != 32 || len(s.Binding) != 32 {
		return errors.New("secure link: the kernel gave nothing to secure it with")
	}
	session, err := synapse.Secure(l.m.life, l.w.conn, synapse.Config{
		Initiator: l.info.Outgoing, Key: l.m.key, Certificate: s.Certificate,
		MeshID: [32]byte(s.Mesh), Header: s.Header, Binding: [32]byte(s.Binding), Admit: l.admitPeer,
	})
	if err != nil {
		return err
	}
	l.r.src, l.r.spin = synapse.NewReader(newSource(l.w.raw), session), nil
	l.w.seal, l.w.burst = session.Seal, farBurst
	return nil
}

// refused is the code of a link that was not secured for a reason of code c:
// what this side's kernel says is final, all else may be another time's luck.
func refused(c sdk.Code) sdk.Code {
	if final(c) {
		return c
	}
	return sdk.CodeUnavailable
}

// admitPeer asks the kernel whether the other side may be talked to, and
// learns who it is.
func (l *link) admitPeer(ctx context.Context, p synapse.Peer) error {
	answer, err := l.m.askKernel(ctx, channel.Message{
		Type: channel.TypeAdmit, ID: l.info.ID,
		Proof: &channel.Proof{Certificate: p.Certificate, Key: p.Key[:], Hash: p.Hash},
	})
	switch {
	case err != nil:
		return err
	case answer.Failure != nil:
		return answer.Failure.Err()
	case answer.Link == nil:
		return errors.New("secure link: the kernel's answer is malformed")
	}
	l.peer.Node, l.peer.Cell = answer.Link.Node, answer.Link.Cell
	return nil
}

// askKernel sends a question about a link and waits for the answer.
func (m *Membrane) askKernel(ctx context.Context, q channel.Message) (channel.Message, error) {
	answer := make(chan channel.Message, 1)
	m.mu.Lock()
	if m.asked[q.ID] != nil {
		m.mu.Unlock()
		return q, fmt.Errorf("secure link: link %d is asked about already", q.ID)
	}
	m.asked[q.ID] = answer
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.asked, q.ID)
		m.mu.Unlock()
	}()
	m.say(q)
	select {
	case a := <-answer:
		return a, nil
	case <-ctx.Done():
		return q, ctx.Err()
	}
}

// admitted passes the kernel's answer on to whoever asked, if somebody still waits.
func (m *Membrane) admitted(msg channel.Message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.asked[msg.ID]; c != nil {
		delete(m.asked, msg.ID)
		c <- msg
	}
}

// cut ends a link because the kernel does not allow it any more.
func (m *Membrane) cut(msg channel.Message) {
	err := sdk.Errorf(sdk.CodeDenied, "the kernel ended the link")
	if msg.Failure != nil {
		err = msg.Failure.Err()
	}
	m.mu.Lock()
	l := m.foreign[msg.ID]
	if in := m.in[msg.ID]; in != nil {
		l = in.link
	}
	m.mu.Unlock()
	if l != nil {
		l.w.fail(err)
	}
}

// release has calls take other links than this one, which ends with its last.
func (m *Membrane) release(id uint64) {
	m.mu.Lock()
	in, release := m.in[id], (func())(nil)
	if out := m.foreign[id]; out != nil {
		release = out.release
	}
	m.mu.Unlock()
	if in != nil {
		in.goAway()
	} else if release != nil {
		release()
	}
}

// setRelease says what release does with an outgoing link.
func (m *Membrane) setRelease(l *link, f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l.release = f
}

// watch makes a link that is not local known to cut, and to shut while its
// handshake goes on. It fails if this cell is leaving.
func (m *Membrane) watch(l *link) error {
	if l.info.Local {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.why != nil {
		return m.why
	}
	m.foreign[l.info.ID] = l
	return nil
}

// unwatch forgets what watch noted. The kernel is told that an outgoing link
// is over; of incoming ones it hears with their counters.
func (m *Membrane) unwatch(l *link) {
	if l.info.Local {
		return
	}
	m.mu.Lock()
	_, known := m.foreign[l.info.ID]
	delete(m.foreign, l.info.ID)
	m.mu.Unlock()
	if known && l.info.Outgoing {
		last := l.lastUsage()
		m.wg.Go(func() { m.say(channel.Message{Type: channel.TypeClosed, ID: l.info.ID, Stats: last}) })
	}
}
