package synapse_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/cellkernel/cellkernel/sdk/synapse"
)

// A pair is two sides of a handshake with somebody between them. Index 0 is
// the initiator.
type pair struct {
	c       [2]synapse.Config
	meeting *synapse.Meeting // instead of c
	random  [2][]byte        // ephemeral keys, where they are given
	// relay returns what arrives instead of message m, the nth (from 0) of
	// the side from; nil cuts the stream.
	relay func(from, n int, m []byte) []byte

	s    [2]*synapse.Session
	err  [2]error
	conn [2]net.Conn // of the sides
	log  events
}

// events is what happened, in order.
type events struct {
	sync.Mutex
	list []string
}

func (e *events) add(format string, args ...any) {
	e.Lock()
	defer e.Unlock()
	e.list = append(e.list, fmt.Sprintf(format, args...))
}

var sideNames = [2]string{"initiator", "responder"}

func newPair(tb testing.TB) *pair {
	p := &pair{relay: func(_, _ int, m []byte) []byte { return m }}
	for i := range p.c {
		key, err := synapse.GenerateKey()
		if err != nil {
			tb.Fatal(err)
		}
		p.c[i] = synapse.Config{
			Initiator: i == 0, Key: key, Certificate: []byte("certificate of the " + sideNames[i]),
			MeshID: [32]byte{1}, Header: []byte("header"), Binding: [32]byte{2},
			Admit: func(_ context.Context, peer synapse.Peer) error {
				p.log.add("%s admits %q finished=%t", sideNames[i], peer.Certificate, peer.Hash != nil)
				return nil
			},
		}
	}
	return p
}

// run runs both sides until they are done; a side that fails closes.
func (p *pair) run(ctx context.Context) {
	var outer [2]net.Conn
	for i := range outer {
		p.conn[i], outer[i] = net.Pipe()
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for from := range outer {
		wg.Go(func() { p.forward(from, outer[from], outer[1-from], stop) })
	}
	var sides sync.WaitGroup
	for i := range p.conn {
		sides.Go(func() {
			p.s[i], p.err[i] = p.side(ctx, i)
			if p.err[i] != nil {
				p.conn[i].Close()
			}
		})
	}
	sides.Wait()
	close(stop)
	for i := range outer {
		outer[i].Close()
	}
	wg.Wait()
}

func (p *pair) side(ctx context.Context, i int) (*synapse.Session, error) {
	var random io.Reader
	if p.random[i] != nil {
		random = bytes.NewReader(p.random[i])
	}
	if p.meeting != nil {
		m := *p.meeting
		m.Initiator = i == 0
		return synapse.MeetFrom(ctx, p.conn[i], m, random)
	}
	return synapse.SecureFrom(ctx, p.conn[i], p.c[i], random)
}

// forward carries messages one way until either end closes.
func (p *pair) forward(from int, r, w net.Conn, stop <-chan struct{}) {
	defer w.Close()
	for n := 0; ; n++ {
		m := make([]byte, 2, 2048)
		if _, err := io.ReadFull(r, m); err != nil {
			return
		}
		m = m[:2+int(binary.BigEndian.Uint16(m))]
		if _, err := io.ReadFull(r, m[2:]); err != nil {
			return
		}
		p.log.add("%s sends %d", sideNames[from], n)
		if m = p.relay(from, n, m); m == nil {
			<-stop // it is not told that it was cut off
			return
		}
		if _, err := w.Write(m); err != nil {
			return
		}
	}
}

func (p *pair) wantBoth(tb testing.TB) {
	tb.Helper()
	for i, err := range p.err {
		if err != nil {
			tb.Fatalf("%s: %v", sideNames[i], err)
		}
	}
}

// wantRefused checks that the side did not get a session, and nothing that
// tells what was wrong, and that its kernel was not asked to the end.
func (p *pair) wantRefused(tb testing.TB, i int) {
	tb.Helper()
	if p.s[i] != nil || p.err[i] == nil {
		tb.Fatalf("%s accepted", sideNames[i])
	}
	if p.err[i] != synapse.ErrHandshake && !errors.Is(p.err[i], context.DeadlineExceeded) {
		tb.Fatalf("%s: got %v, want %v", sideNames[i], p.err[i], synapse.ErrHandshake)
	}
	for _, e := range p.log.list {
		if strings.HasPrefix(e, sideNames[i]+" admits") && strings.HasSuffix(e, "finished=true") {
			tb.Fatalf("%s: kernel was asked to admit after a broken handshake", sideNames[i])
		}
	}
}
