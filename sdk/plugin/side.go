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

// maxHostCalls bounds the host calls of one plugin that run at once; more are
// refused, so that a plugin can not make the kernel work without limit.
const maxHostCalls = 8

// A side is the kernel's end of a plugin's side channel. Descriptors are
// joined with calls by tokens: the kernel chooses one and expects it before
// it makes the call, so whatever else arrives is a stray and is closed.
type side struct {
	conn   *channel.Conn
	invoke func(ctx context.Context, method string, body []byte) ([]byte, error)
	done   chan struct{} // closed when the plugin's end is, and all calls returned

	smu sync.Mutex // makes deadline and send one step

	mu       sync.Mutex // guards the fields below
	last     uint64
	expected map[uint64]chan *os.File
	ended    bool
	strays   int // descriptors that nobody expected
}

// newSide says hello and serves host calls until the channel ends. It takes
// ownership of conn.
func newSide(conn *channel.Conn, h hello, invoke func(context.Context, string, []byte) ([]byte, error)) (*side, error) {
	s := &side{conn: conn, invoke: invoke, done: make(chan struct{}), expected: map[uint64]chan *os.File{}}
	h.Version = sideVersion
	if err := s.send(message{Type: typeHello, hello: h}); err != nil {
		conn.Close()
		return nil, err
	}
	go s.read()
	return s, nil
}

func (s *side) read() {
	defer close(s.done)
	ctx, cancel := context.WithCancel(context.Background())
	var calls sync.WaitGroup
	defer calls.Wait()
	defer cancel()
	defer s.end()
	slots := make(chan struct{}, maxHostCalls)
	buf := make([]byte, channel.MaxMessage)
	for {
		n, files, err := s.conn.Recv(buf)
		if errors.Is(err, channel.ErrTruncated) {
			continue
		}
		if err != nil {
			return
		}
		m, err := parseMessage(buf[:n])
		switch {
		case err == nil && m.Type == typeFD && len(files) == 1:
			s.deliver(m.Token, files[0])
		case err == nil && m.Type == typeCall && len(files) == 0:
			select {
			case slots <- struct{}{}:
				calls.Go(func() {
					s.answer(ctx, m)
					<-slots
				})
			default:
				s.reply(m.ID, nil, sdk.Errorf(sdk.CodeOverloaded, "more than %d calls at once", maxHostCalls))
			}
		default:
			s.mu.Lock()
			s.strays += len(files)
			s.mu.Unlock()
			closeFiles(files)
		}
	}
}

func (s *side) answer(ctx context.Context, m message) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	body, err := s.invoke(ctx, m.Method, m.Body)
	s.reply(m.ID, body, err)
}

// reply ignores that the plugin may be gone: then nobody waits.
func (s *side) reply(id uint64, body []byte, err error) {
	m := message{Type: typeReply, ID: id, Body: body}
	if err == nil && len(body) > maxBody {
		err = sdk.Errorf(sdk.CodeTooLarge, "reply of %d bytes", len(body))
	}
	if err != nil {
		e := sdk.AsError(err)
		m.Body, m.Code, m.Text = nil, e.Code.String(), clip(e.Error(), maxText)
	}
	_ = s.send(m)
}

func (s *side) send(m message) error {
	s.smu.Lock()
	defer s.smu.Unlock()
	// A plugin that does not read has 8 calls in flight at most, whose replies
	// fit any queue: a block here means that it is broken.
	if err := s.conn.SetWriteDeadline(time.Now().Add(fdTimeout)); err != nil {
		return err
	}
	return s.conn.Send(formatMessage(m))
}

func (s *side) deliver(token uint64, f *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ch := s.expected[token]
	if ch == nil {
		s.strays++
		f.Close()
		return
	}
	delete(s.expected, token)
	ch <- f // of capacity 1, and only delivered to once
}

// end wakes all who wait for descriptors.
func (s *side) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for token, ch := range s.expected {
		delete(s.expected, token)
		close(ch)
	}
}

// A ticket waits for one descriptor. Drop it or take it.
type ticket struct {
	side  *side
	token uint64
	ch    chan *os.File
}

// expect makes a ticket under a new token.
func (s *side) expect() ticket {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	t := ticket{s, s.last, make(chan *os.File, 1)}
	if s.ended {
		close(t.ch)
	} else {
		s.expected[t.token] = t.ch
	}
	return t
}

// take waits for the descriptor, which must be there soon: the plugin sends
// it before it answers the call. The file is the caller's.
func (t ticket) take(ctx context.Context) (*os.File, error) {
	defer t.drop()
	timer := time.NewTimer(fdTimeout)
	defer timer.Stop()
	select {
	case f, ok := <-t.ch:
		if !ok {
			return nil, fmt.Errorf("receive descriptor: %w", ErrGone)
		}
		return f, nil
	case <-timer.C:
		return nil, fmt.Errorf("receive descriptor: none arrived within %v", fdTimeout)
	case <-ctx.Done():
		return nil, fmt.Errorf("receive descriptor: %w", ctx.Err())
	}
}

// drop gives the ticket up and closes what came under it. Dropping after
// take is no error.
func (t ticket) drop() {
	t.side.mu.Lock()
	defer t.side.mu.Unlock()
	delete(t.side.expected, t.token)
	select {
	case f := <-t.ch:
		if f != nil {
			f.Close()
		}
	default:
	}
}

// close ends the channel, which tells the plugin to end, and waits for host
// calls to return.
func (s *side) close() {
	s.conn.Close()
	<-s.done
}
