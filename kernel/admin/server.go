package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// Limits of the server.
const (
	maxConns    = 128              // connections at once; more wait in the backlog
	maxStreams  = 64               // streams at once; more are refused
	maxHeader   = 16 << 10         // bytes of a request's header
	headerLimit = 5 * time.Second  // to send the header
	bodyLimit   = 30 * time.Second // to send the body
	idleLimit   = 60 * time.Second // between requests of one connection
	// writeLimit bounds one write to a client that does not read. It is long
	// because a pager that shows a log is such a client.
	writeLimit = 10 * time.Minute
	// heartbeat is the time between comments of a silent stream; a client
	// takes three missing ones for a dead kernel.
	heartbeat = 5 * time.Second
)

// Options configure a [Server]. The zero Options are complete.
type Options struct {
	Metrics http.Handler // serves GET /metrics; nil: there is none
	Log     *slog.Logger // nil: nothing is logged
}

// A Server offers a [Kernel] on a listener from [Listen].
type Server struct {
	kernel  Kernel
	log     *slog.Logger
	http    *http.Server
	streams chan struct{} // a slot per open stream
	stop    chan struct{} // closed when streams have to end
	once    sync.Once     // closes stop
}

// NewServer returns a server that is not serving yet.
func NewServer(k Kernel, o Options) *Server {
	s := &Server{
		kernel:  k,
		log:     o.Log,
		streams: make(chan struct{}, maxStreams),
		stop:    make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.http = &http.Server{
		Handler:           s.ownerOnly(s.routes(o.Metrics)),
		ReadHeaderTimeout: headerLimit,
		IdleTimeout:       idleLimit,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		ConnContext:       withPeer,
	}
	return s
}

// Serve answers on ln until [Server.Shutdown], and then returns nil.
// It takes ownership of ln.
func (s *Server) Serve(ln net.Listener) error {
	err := s.http.Serve(&limitedListener{Listener: ln, slots: make(chan struct{}, maxConns)})
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve admin socket: %w", err)
}

// Shutdown refuses new requests, ends all streams, waits for the other
// requests until ctx is done and then cuts them. A kernel closes its
// [Journal] first, so that whoever follows it has read to its end.
func (s *Server) Shutdown(ctx context.Context) error {
	s.once.Do(func() { close(s.stop) })
	if err := s.http.Shutdown(ctx); err != nil {
		return errors.Join(err, s.http.Close())
	}
	return nil
}

// Listen makes the admin socket at path. Its directory must exist, belong to
// this user and be closed to others. The caller holds the lock of this node,
// so a socket that is there already belongs to nobody and is replaced.
func Listen(path string) (net.Listener, error) {
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("listen on admin socket: %w", err)
	}
	st, ok := dir.Sys().(*syscall.Stat_t)
	if !ok || int(st.Uid) != os.Geteuid() || dir.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("listen on admin socket: directory %q: want it to be ours and mode 0700, got uid %d and %#o",
			filepath.Dir(path), st.Uid, dir.Mode().Perm())
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen on admin socket: %w", err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on admin socket: %w", err)
	}
	// Nobody else can have connected before this: the directory is 0700.
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, fmt.Errorf("listen on admin socket: %w", err)
	}
	return ln, nil
}

type peerKey struct{}

// withPeer notes who connected. Without an answer nobody did.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if cred, err := peerCred(c); err == nil {
		return context.WithValue(ctx, peerKey{}, cred)
	}
	return ctx
}

// peerCred returns the credentials of the process at the other end of c, as
// they were when it connected (or, of a listener, when it began to listen).
func peerCred(c net.Conn) (*syscall.Ucred, error) {
	if l, ok := c.(*limitedConn); ok {
		c = l.Conn
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("read peer credentials: %T has none", c)
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("read peer credentials: %w", err)
	}
	var cred *syscall.Ucred
	var cause error
	err = raw.Control(func(fd uintptr) {
		cred, cause = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err := errors.Join(err, cause); err != nil {
		return nil, fmt.Errorf("read peer credentials: %w", err)
	}
	return cred, nil
}

// ownerOnly refuses everyone but the user the kernel runs as, and root. The
// socket's mode says the same, but modes can be changed by mistake.
func (s *Server) ownerOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cred, ok := r.Context().Value(peerKey{}).(*syscall.Ucred)
		if !ok || cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
			s.fail(w, r, sdk.Errorf(sdk.CodeDenied, "open admin socket: only its owner and root may"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// fail answers with err.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := typed(err)
	if e.Code == sdk.CodeInternal {
		s.log.Error("admin request", "method", r.Method, "path", r.URL.Path, "error", e.Text)
	}
	send(w, httpStatus(e.Code), append(encodeError(err), '\n'))
}

// send writes one JSON answer.
func send(w http.ResponseWriter, status int, body []byte) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(bodyLimit))
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that left needs no answer
}

// readBody reads at most limit bytes within bodyLimit. The deadline is
// cleared behind it: the connection is watched for the client's departure
// while the request is worked on, however long that takes.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyLimit))
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	_ = rc.SetReadDeadline(time.Time{})
	var big *http.MaxBytesError
	if errors.As(err, &big) {
		return nil, sdk.Errorf(sdk.CodeTooLarge, "read request: more than %d bytes", limit)
	}
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "read request: %v", err)
	}
	return b, nil
}

// limitedListener accepts at most cap(slots) connections at once.
type limitedListener struct {
	net.Listener
	slots chan struct{}
}

func (l *limitedListener) Accept() (net.Conn, error) {
	// Waiting here needs no way out: a full listener gets a slot when one of
	// its connections ends, and closing the server closes them all.
	l.slots <- struct{}{}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitedConn{Conn: c, free: sync.OnceFunc(func() { <-l.slots })}, nil
}

type limitedConn struct {
	net.Conn
	free func()
}

func (c *limitedConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}
