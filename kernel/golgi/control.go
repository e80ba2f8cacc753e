package golgi

import (
	"errors"
	"net"
	"os"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

// A ticket lets a process attach through the control socket.
type ticket struct {
	id      Replica
	welcome channel.Welcome
	expire  *time.Timer
}

// An Attachment is how a process that is about to start finds its kernel: by
// the channel it inherits, or with the token at the control socket.
type Attachment struct {
	Channel *os.File // for the child; the caller's to close
	Token   string
	cancel  func()
}

// Cancel ends the attachment when the process is gone, or never began.
func (a *Attachment) Cancel() { a.cancel() }

// Attach prepares the attachment of one life of one replica.
func (g *Golgi) Attach(id Replica, w channel.Welcome) (*Attachment, error) {
	ours, theirs, err := channel.Pair()
	if err != nil {
		return nil, err
	}
	s := g.newSeat(id, w, ours)
	a := &Attachment{Channel: theirs, Token: newToken()}
	a.cancel = func() {
		g.expire(a.Token)
		s.ch.Close()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		ours.Close()
		theirs.Close()
		return nil, sdk.Errorf(sdk.CodeUnavailable, "attach %s: the kernel is shutting down", s)
	}
	g.tokens[a.Token] = &ticket{id: id, welcome: w, expire: time.AfterFunc(tokenLife, func() { g.expire(a.Token) })}
	g.wg.Go(s.listen)
	return a, nil
}

// Token prepares the attachment of a process that somebody else starts: a
// terminal, a debugger. It is good for one use within a minute.
func (g *Golgi) Token(id Replica, w channel.Welcome) string {
	token := newToken()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tokens[token] = &ticket{id: id, welcome: w, expire: time.AfterFunc(tokenLife, func() { g.expire(token) })}
	return token
}

// maxToKernel is the length of the longest message to the cell "golgi", in
// bytes: every member of the mesh may send it some, and what they say is short.
// Slips about receipts are the longest, at most [sdk.MaxRecord].
const maxToKernel = 64 << 10

// AttachSelf attaches the kernel itself, as a cell that may call every other
// and, under the name "golgi", be called. The returned file is the other end
// of its channel, the caller's to use.
func (g *Golgi) AttachSelf(name sdk.CellName) (*os.File, error) {
	ours, theirs, err := channel.Pair()
	if err != nil {
		return nil, err
	}
	s := g.newSeat(Replica{Cell: name}, channel.Welcome{Cell: name}, ours)
	s.free, s.serves = true, name == sdk.GolgiName
	if s.serves {
		s.welcome.MaxMessage = maxToKernel
	}
	g.wg.Go(s.listen)
	return theirs, nil
}

func (g *Golgi) expire(token string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.tokens[token]; t != nil {
		t.expire.Stop()
		delete(g.tokens, token)
	}
}

// ServeControl attaches processes that dial the control socket, until the
// listener is closed. It takes "unixpacket" connections of this user.
func (g *Golgi) ServeControl(l *net.UnixListener) error {
	for pause := acceptPause; ; {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			// Such as too many open files: processes that are refused now may
			// come when others have gone.
			g.opt.Log.Warn("accept at the control socket", "error", err, "again in", pause)
			if !g.idle(pause) {
				return nil
			}
			pause = min(2*pause, maxAcceptPause)
			continue
		}
		pause = acceptPause
		ch := channel.New(c)
		if _, uid, err := ch.PeerCred(); err != nil || int(uid) != os.Getuid() && uid != 0 {
			g.opt.Log.Warn("refused a stranger at the control socket", "uid", uid)
			ch.Close()
			continue
		}
		select {
		case g.door <- struct{}{}:
			g.wg.Go(func() { g.enter(ch) })
		default:
			g.opt.Log.Warn("too many processes at the control socket", "limit", maxPending)
			ch.Close()
		}
	}
}

// Between attempts to accept that fail.
const (
	acceptPause    = 10 * time.Millisecond
	maxAcceptPause = time.Second
)

// idle waits, and reports whether g goes on after that.
func (g *Golgi) idle(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-g.ctx.Done():
		return false
	}
}

// enter takes the hello of a process that dialled.
func (g *Golgi) enter(ch *channel.Conn) {
	m, err := g.awaitHello(ch)
	<-g.door
	if err != nil {
		ch.Close()
		return
	}
	s, err := g.seatFor(ch, m.Hello)
	if err != nil {
		// The process may be gone already: then nobody reads this.
		_ = ch.SendMessage(channel.Message{Type: channel.TypeRefused, Failure: channel.FailureOf(err)})
		ch.Close()
		return
	}
	s.introduce(m.Hello)
	s.listen()
}

func (g *Golgi) awaitHello(ch *channel.Conn) (channel.Message, error) {
	if err := ch.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return channel.Message{}, err
	}
	m, files, err := ch.RecvMessage(make([]byte, channel.MaxMessage))
	closeFiles(files)
	if err == nil && (m.Type != channel.TypeHello || m.Hello == nil) {
		err = errors.New("no hello")
	}
	if err != nil {
		return m, err
	}
	return m, ch.SetReadDeadline(time.Time{})
}

// seatFor finds out who a process is: by its token, or, without one, as the
// command line, which calls and is not called.
func (g *Golgi) seatFor(ch *channel.Conn, h *channel.Hello) (*seat, error) {
	if h.Token == "" {
		s := g.newSeat(Replica{Cell: sdk.CLIName}, channel.Welcome{}, ch)
		s.free, s.serves = true, false
		return s, nil
	}
	g.mu.Lock()
	t := g.tokens[h.Token]
	delete(g.tokens, h.Token)
	g.mu.Unlock()
	if t == nil {
		return nil, sdk.Errorf(sdk.CodeDenied, "attach: unknown token: it is good for one use within %s", tokenLife)
	}
	t.expire.Stop()
	return g.newSeat(t.id, t.welcome, ch), nil
}
