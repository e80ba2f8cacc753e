package plugintest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

func transportClauses() []clause {
	return []clause{
		{"transport/echo", "carries bytes both ways", onLink(checkEcho), false},
		{"transport/eof-dialled", "delivers all bytes before the end when the dialling side closes", onLink(func(l *link) error { return checkEOF(l.near, l.far) }), false},
		{"transport/eof-accepted", "delivers all bytes before the end when the accepting side closes", onLink(func(l *link) error { return checkEOF(l.far, l.near) }), false},
		{"transport/duplex", "carries 8 MiB each way at once, byte-exact, without deadlock", onLink(checkDuplex), false},
		{"transport/deadline", "leaves deadlines working: what is handed over is not in blocking mode", onLink(checkDeadline), false},
		{"transport/descriptor", "hands over a descriptor that carries the connection", onLink(checkDescriptor), false},
		{"transport/binding", "gives both ends the same channel binding, or neither one", onLink(checkBinding), false},
		{"transport/many", "keeps 64 connections at once apart", checkMany, false},
		{"transport/outlives-ctx", "keeps listeners and connections beyond the ctx that made them", checkOutlives, false},
		{"transport/nobody", "reports at once that nobody listens", checkNobody, false},
		{"transport/cancelled", "gives up dialling when ctx is done", checkCancelled, false},
		{"transport/in-use", "refuses to listen twice at one address", checkInUse, false},
		{"transport/rebind", "frees the address when the listener is closed", checkRebind, false},
		{"transport/close-accept", "ends Accept when the listener is closed", checkCloseAccept, false},
		{"transport/bad-address", "refuses addresses it does not understand and lives on", checkBadAddress, false},
		{"transport/backlog", "queues connections that nobody accepts yet", checkBacklog, false},
		{"transport/leak", "holds no descriptors of connections that ended", checkTransportLeak, true},
	}
}

// A link is a connection with both ends.
type link struct {
	e         *env
	tr        sdk.Transport
	l         net.Listener
	addr      sdk.Addr // to dial
	near, far net.Conn
}

// listen opens an instance and a listener that is closed with the clause.
func listen(e *env) (*link, error) {
	c, err := e.open()
	if err != nil {
		return nil, err
	}
	tr, err := c.Transport()
	if err != nil {
		return nil, err
	}
	k := &link{e: e, tr: tr}
	hosts := []string{e.o.Host}
	if e.o.Host == "" {
		hosts = []string{filepath.Join(e.dir, "s"), "127.0.0.1:0"}
	}
	var errs []error
	for _, host := range hosts {
		addr := sdk.Addr{Scheme: e.info.Name, Host: host}
		if k.l, err = tr.Listen(e.ctx, addr); err == nil {
			e.later(func() { k.l.Close() })
			return k, k.resolve()
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (k *link) resolve() error {
	k.addr = sdk.Addr{Scheme: k.e.info.Name, Host: k.l.Addr().String()}
	if h, ok := k.l.(sdk.Hinter); ok {
		k.addr.Hint = h.Hint()
	}
	return k.addr.Validate()
}

// connect dials and accepts. Both ends are closed with the clause.
func (k *link) connect() (net.Conn, net.Conn, error) {
	var far net.Conn
	accepted := make(chan error, 1)
	go func() {
		var aerr error
		far, aerr = k.l.Accept()
		accepted <- aerr
	}()
	near, err := k.tr.Dial(k.e.ctx, k.addr)
	if err != nil {
		k.l.Close()
		<-accepted
		return nil, nil, err
	}
	k.e.later(func() { near.Close() })
	// Some transports show a connection to the other side with its first byte.
	if _, err := near.Write([]byte{greeting}); err != nil {
		k.l.Close()
		<-accepted
		return nil, nil, fmt.Errorf("write to the dialled end: %w", err)
	}
	select {
	case err = <-accepted:
	case <-k.e.ctx.Done():
		k.l.Close()
		<-accepted
		err = errors.New("a dialled connection was not accepted in time")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("accept: %w", err)
	}
	k.e.later(func() { far.Close() })
	deadline, _ := k.e.ctx.Deadline()
	near.SetDeadline(deadline)
	far.SetDeadline(deadline)
	b := make([]byte, 1)
	if _, err := io.ReadFull(far, b); err != nil || b[0] != greeting {
		return nil, nil, fmt.Errorf("read the first byte of an accepted connection: got %v: %w", b, err)
	}
	return near, far, nil
}

const greeting = 0x2a

// onLink makes a clause of a check that needs one connection.
func onLink(check func(*link) error) func(*env) error {
	return func(e *env) error {
		k, err := listen(e)
		if err != nil {
			return err
		}
		if k.near, k.far, err = k.connect(); err != nil {
			return err
		}
		return check(k)
	}
}

func checkEcho(k *link) error {
	for i, ends := range [][2]net.Conn{{k.near, k.far}, {k.far, k.near}} {
		for _, n := range []int{1, 100, 70_000} {
			msg := noise(n)
			errs := make(chan error, 1)
			go func() {
				_, err := ends[0].Write(msg)
				errs <- err
			}()
			got := make([]byte, n)
			if _, err := io.ReadFull(ends[1], got); err != nil {
				return fmt.Errorf("direction %d: read %d bytes: %w", i, n, err)
			}
			if err := <-errs; err != nil {
				return fmt.Errorf("direction %d: write %d bytes: %w", i, n, err)
			}
			if !bytes.Equal(got, msg) {
				return fmt.Errorf("direction %d: %d bytes arrived changed", i, n)
			}
		}
	}
	return nil
}

func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

func checkEOF(from, to net.Conn) error {
	msg := noise(1 << 20)
	errs := make(chan error, 1)
	go func() {
		_, err := from.Write(msg)
		errs <- errors.Join(err, from.Close())
	}()
	got, err := io.ReadAll(to)
	if err != nil {
		return fmt.Errorf("read until the end: %w after %d of %d bytes", err, len(got), len(msg))
	}
	if err := <-errs; err != nil {
		return err
	}
	if !bytes.Equal(got, msg) {
		return fmt.Errorf("got %d bytes before the end, want the %d that were written", len(got), len(msg))
	}
	return nil
}

func checkDuplex(k *link) error {
	const size = 8 << 20
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	for _, ends := range [][2]net.Conn{{k.near, k.far}, {k.far, k.near}} {
		msg := noise(size)
		wg.Go(func() {
			_, err := ends[0].Write(msg)
			errs <- err
		})
		wg.Go(func() {
			got := make([]byte, size)
			_, err := io.ReadFull(ends[1], got)
			if err == nil && !bytes.Equal(got, msg) {
				err = errors.New("bytes arrived changed")
			}
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func checkDeadline(k *link) error {
	for _, c := range []net.Conn{k.near, k.far} {
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("read with nothing to read: got %v, want a deadline error", err)
		}
	}
	return nil
}

// checkDescriptor does what a kernel does: give the descriptor away and
// forget the connection.
func checkDescriptor(k *link) error {
	f, ok := k.near.(plugin.Filer)
	if !ok {
		return fmt.Errorf("a connection of type %T has no descriptor", k.near)
	}
	file, err := f.File()
	if err != nil {
		return err
	}
	k.near.Close()
	defer file.Close()
	moved, err := net.FileConn(file)
	if err != nil {
		return err
	}
	defer moved.Close()
	deadline, _ := k.e.ctx.Deadline()
	moved.SetDeadline(deadline)
	k.near = moved
	return checkEcho(k)
}

func checkBinding(k *link) error {
	a, aok := k.near.(sdk.Binder)
	b, bok := k.far.(sdk.Binder)
	switch {
	case aok != bok:
		return fmt.Errorf("the dialled end has a channel binding: %v, the accepted end: %v", aok, bok)
	case !aok:
		return skipError("the transport has no channel binding")
	case a.ChannelBinding() != b.ChannelBinding():
		return errors.New("the ends have different channel bindings")
	case a.ChannelBinding() == [32]byte{}:
		return errors.New("the channel binding is zero")
	}
	return nil
}

func checkMany(e *env) error {
	k, err := listen(e)
	if err != nil {
		return err
	}
	const n = 64
	var ends [n][2]net.Conn
	for i := range ends {
		if ends[i][0], ends[i][1], err = k.connect(); err != nil {
			return fmt.Errorf("connection %d: %w", i+1, err)
		}
	}
	for i := range ends {
		if _, err := ends[i][0].Write([]byte{byte(i)}); err != nil {
			return err
		}
	}
	for i := range ends {
		b := make([]byte, 1)
		if _, err := io.ReadFull(ends[i][1], b); err != nil || b[0] != byte(i) {
			return fmt.Errorf("connection %d got the byte of %d: %w", i, b[0], err)
		}
	}
	return nil
}

func checkOutlives(e *env) error {
	short, cancel := context.WithCancel(e.ctx)
	defer cancel()
	long := e.ctx
	e.ctx = short
	k, err := listen(e)
	if err != nil {
		return err
	}
	near, err := k.tr.Dial(short, k.addr)
	e.ctx = long
	if err != nil {
		return err
	}
	defer near.Close()
	cancel()
	if k.near, k.far, err = k.connectAfter(near); err != nil {
		return err
	}
	return checkEcho(k)
}

// connectAfter accepts what near dialled before.
func (k *link) connectAfter(near net.Conn) (net.Conn, net.Conn, error) {
	if _, err := near.Write([]byte{greeting}); err != nil {
		return nil, nil, fmt.Errorf("write after the ctx of Dial was cancelled: %w", err)
	}
	stop := context.AfterFunc(k.e.ctx, func() { k.l.Close() })
	defer stop()
	far, err := k.l.Accept()
	if err != nil {
		return nil, nil, fmt.Errorf("accept after the ctx of Listen was cancelled: %w", err)
	}
	k.e.later(func() { far.Close() })
	deadline, _ := k.e.ctx.Deadline()
	near.SetDeadline(deadline)
	far.SetDeadline(deadline)
	_, err = io.ReadFull(far, make([]byte, 1))
	return near, far, err
}
