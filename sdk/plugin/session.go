package plugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

// Deadlines of the side channel.
const (
	helloTimeout = 10 * time.Second
	callTimeout  = 10 * time.Second
	sendTimeout  = 30 * time.Second // the kernel may be stopped meanwhile
	fdTimeout    = 2 * time.Second  // from an answer to the descriptor it names
)

// errHostGone is what host calls return once the kernel is gone.
var errHostGone = errors.New("the kernel is gone")

// A session is the plugin's end of the side channel.
type session struct {
	conn *channel.Conn
	gone chan struct{} // closed when the kernel's end is

	smu sync.Mutex // makes deadline and send one step

	mu      sync.Mutex // guards the fields below
	next    uint64
	pending map[uint64]chan message
}

// newSession waits for the kernel's hello and then reads replies until the
// channel ends. It takes ownership of conn.
func newSession(conn *channel.Conn) (*session, hello, error) {
	s := &session{conn: conn, gone: make(chan struct{}), pending: map[uint64]chan message{}}
	buf := make([]byte, channel.MaxMessage)
	m, err := s.readHello(buf)
	if err != nil {
		conn.Close()
		return nil, hello{}, fmt.Errorf("read the kernel's hello on descriptor 3: %w", err)
	}
	go s.read(buf)
	return s, m.hello, nil
}

func (s *session) readHello(buf []byte) (message, error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return message{}, err
	}
	n, files, err := s.conn.Recv(buf)
	closeFiles(files)
	if err != nil {
		return message{}, err
	}
	m, err := parseMessage(buf[:n])
	switch {
	case err != nil:
		return m, err
	case m.Type != typeHello || len(m.Secret) != 32:
		return m, fmt.Errorf("got a message of type %q and a secret of %d bytes", clip(m.Type, 20), len(m.Secret))
	case m.Version != sideVersion:
		return m, fmt.Errorf("version %d: this plugin speaks %d: build it against the kernel's sdk", m.Version, sideVersion)
	}
	return m, s.conn.SetReadDeadline(time.Time{})
}

// read ends, and with it the session, at the end of input: the kernel died
// or wants this plugin to end.
func (s *session) read(buf []byte) {
	defer close(s.gone)
	for {
		n, files, err := s.conn.Recv(buf)
		if errors.Is(err, channel.ErrTruncated) {
			continue
		}
		if err != nil {
			return
		}
		closeFiles(files) // nothing of ours carries any
		m, err := parseMessage(buf[:n])
		if err != nil || m.Type != typeReply {
			continue // a newer kernel may say more than this plugin knows
		}
		s.mu.Lock()
		reply := s.pending[m.ID]
		delete(s.pending, m.ID)
		s.mu.Unlock()
		if reply != nil {
			reply <- m
		}
	}
}

func (s *session) close() {
	s.conn.Close()
	<-s.gone
}

// sendFile hands f to the kernel under a token it chose. f stays the caller's.
func (s *session) sendFile(token uint64, f *os.File) error {
	return s.send(message{Type: typeFD, Token: token}, f)
}

func (s *session) send(m message, files ...*os.File) error {
	s.smu.Lock()
	defer s.smu.Unlock()
	if err := s.conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	return s.conn.Send(formatMessage(m), files...)
}

// call asks the kernel for something and waits for its reply.
func (s *session) call(ctx context.Context, method string, body []byte) ([]byte, error) {
	if len(body) > maxBody {
		return nil, sdk.Errorf(sdk.CodeTooLarge, "call host %s: %d bytes: at most %d", method, len(body), maxBody)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	reply := make(chan message, 1)
	s.mu.Lock()
	s.next++
	id := s.next
	s.pending[id] = reply
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.pending, id)
		s.mu.Unlock()
	}()
	if err := s.send(message{Type: typeCall, ID: id, Method: method, Body: body}); err != nil {
		return nil, fmt.Errorf("call host %s: %w", method, err)
	}
	select {
	case m := <-reply:
		if m.Code != "" {
			code, _ := sdk.ParseCode(m.Code)
			return nil, sdk.Errorf(code, "call host %s: %s", method, clip(m.Text, maxText))
		}
		return m.Body, nil
	case <-s.gone:
		return nil, fmt.Errorf("call host %s: %w", method, errHostGone)
	case <-ctx.Done():
		return nil, fmt.Errorf("call host %s: %w", method, ctx.Err())
	}
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
