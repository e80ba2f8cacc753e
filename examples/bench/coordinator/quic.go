package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/quic-go/quic-go"
)

// The raw baseline between machines is the one of raw.go over quic-go alone:
// one connection, a stream in the place of a connection there. Windows, packet
// sizes and segmentation are those of transport-quic.

const (
	quicProtocol = "bench"
	streamWindow = 256 << 10
	maxStreams   = 256
	connWindow   = maxStreams * streamWindow
)

func quicConfig() *quic.Config {
	return &quic.Config{
		InitialStreamReceiveWindow: streamWindow, MaxStreamReceiveWindow: streamWindow,
		InitialConnectionReceiveWindow: connWindow, MaxConnectionReceiveWindow: connWindow,
		MaxIncomingStreams: maxStreams,
	}
}

// listenQUIC listens; every connection and stream is answered.
func listenQUIC(at string) (*listening, error) {
	conf, pin, err := selfSigned()
	if err != nil {
		return nil, err
	}
	conf.NextProtos = []string{quicProtocol}
	l, err := quic.ListenAddr(at, conf, quicConfig())
	if err != nil {
		return nil, err
	}
	serve := func() error {
		var calls atomic.Uint64
		for {
			c, err := l.Accept(context.Background())
			if err != nil {
				return err
			}
			go answerStreams(c, &calls) // ends with the connection, which ends with the process
		}
	}
	return &listening{serve, l.Close, fmt.Sprintf("%s %s/%s", ready, l.Addr(), pin)}, nil
}

func answerStreams(c *quic.Conn, calls *atomic.Uint64) {
	for {
		s, err := c.AcceptStream(context.Background())
		if err != nil {
			return // the client has closed the connection
		}
		go func() {
			defer s.Close()
			var gone *quic.ApplicationError
			if err := answer(s, calls); err != nil && !errors.Is(err, io.EOF) && !errors.As(err, &gone) {
				fmt.Fprintln(os.Stderr, "answer QUIC:", err)
			}
		}()
	}
}

// quicServer is the raw QUIC server as the callers see it.
type quicServer struct {
	at   string
	tls  *tls.Config
	each bool // a stream for each caller, not one for all
}

// forEach is the same server with a stream for each caller.
func (q *quicServer) forEach() *quicServer { return &quicServer{q.at, q.tls, true} }

func (q *quicServer) dial(ctx context.Context) (*quic.Conn, error) {
	conf := q.tls.Clone()
	conf.NextProtos = []string{quicProtocol}
	c, err := quic.DialAddr(ctx, q.at, conf, quicConfig())
	if err != nil {
		return nil, fmt.Errorf("dial QUIC server: %w", err)
	}
	return c, nil
}

// stream opens a stream and says what it is for.
func (q *quicServer) stream(ctx context.Context, c *quic.Conn, k kind, payload int) (*quic.Stream, error) {
	s, err := c.OpenStreamSync(ctx)
	if err == nil {
		err = sayHello(s, k, payload)
	}
	if err != nil {
		return nil, fmt.Errorf("open QUIC stream: %w", err)
	}
	return s, nil
}

// count implements server.
func (q *quicServer) count(ctx context.Context) (uint64, error) {
	c, err := q.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer c.CloseWithError(0, "")
	s, err := q.stream(ctx, c, countHello, 0)
	if err != nil {
		return 0, err
	}
	return countOf(s)
}

// open implements server. One stream carries all requests in flight, in one
// write, or each caller has one.
func (q *quicServer) open(ctx context.Context, w workload) (cs []caller, _ func(), err error) {
	c, err := q.dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	closeAll := func() { c.CloseWithError(0, "") }
	streams, width := 1, w.inFlight
	if q.each {
		streams, width = w.inFlight, 1
	}
	for range streams {
		s, err := q.stream(ctx, c, w.kind, w.payload)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		cs = append(cs, caller{newWindow(s, w, width).call, width})
	}
	return cs, closeAll, nil
}
