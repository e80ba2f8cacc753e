package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// handshakeLimit bounds Dial: a kernel that does not say who it is by then is
// stopped or none.
const handshakeLimit = 2 * time.Second

// maxAnswer bounds what a client reads of one answer, in bytes.
const maxAnswer = MaxMessage + MaxBody

// A Client is a [Kernel] in another process. Its methods may be called
// concurrently. A kernel that is gone is [sdk.CodeUnavailable].
type Client struct {
	http    *http.Client
	path    string
	pid     atomic.Int32 // of the process that listens
	uid     atomic.Uint32
	version Version
}

var _ Kernel = (*Client)(nil)

// Dial connects to the admin socket at path and asks who answers. The socket
// must be served by this user or by root; root may talk to anyone's. A socket
// that nobody listens on any more is [syscall.ECONNREFUSED].
func Dial(ctx context.Context, path string) (*Client, error) {
	c := &Client{path: path}
	tr := &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		MaxResponseHeaderBytes: maxHeader,
		MaxIdleConns:           4,
		IdleConnTimeout:        idleLimit / 2,
		DisableCompression:     true,
	}
	c.http = &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	hctx, cancel := context.WithTimeout(ctx, handshakeLimit)
	defer cancel()
	var err error
	if c.version, err = fetch[Version](hctx, c, "version"); err != nil {
		c.Close()
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			return nil, sdk.Errorf(sdk.CodeUnavailable, "open %s: process %d does not answer within %v", path, c.PID(), handshakeLimit)
		}
		return nil, err
	}
	if c.version.API != APIVersion {
		c.Close()
		return nil, sdk.Errorf(sdk.CodeIncompatible, "open %s: kernel %s speaks version %d of the admin API, this is version %d",
			path, c.version.Version, c.version.API, APIVersion)
	}
	return c, nil
}

// Close drops the client's idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// PID returns the id of the process that serves the socket, as the operating
// system says, or 0 before the first connection.
func (c *Client) PID() int { return int(c.pid.Load()) }

// UID returns the user that the process of PID runs as. For root it may be
// anyone: what such a kernel says must not be executed.
func (c *Client) UID() int { return int(c.uid.Load()) }

// dial connects, and checks that the right user serves the socket.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	conn, err := dialLong(ctx, c.path)
	if err != nil {
		return nil, err
	}
	cred, err := peerCred(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	if me := os.Geteuid(); me != 0 && cred.Uid != 0 && int(cred.Uid) != me {
		conn.Close()
		return nil, sdk.Errorf(sdk.CodeDenied, "open %s: served by user %d", c.path, cred.Uid)
	}
	c.pid.Store(cred.Pid)
	c.uid.Store(cred.Uid)
	return conn, nil
}

// dialLong connects to a Unix socket also where the path is longer than a
// socket address can hold, through a descriptor of the directory.
func dialLong(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	if len(path) < len(syscall.RawSockaddrUnix{}.Path) {
		return d.DialContext(ctx, "unix", path)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}

// fetch asks for a T.
func fetch[T any](ctx context.Context, c *Client, path string) (v T, err error) {
	b, err := c.do(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return v, err
	}
	err = c.unmarshal(b, &v)
	return v, err
}

// post sends in as JSON and reads the answer as a T.
func post[T any](ctx context.Context, c *Client, path string, query url.Values, in any) (v T, err error) {
	body, err := json.Marshal(in)
	if err != nil {
		return v, err
	}
	b, err := c.do(ctx, http.MethodPost, path, query, body)
	if err != nil {
		return v, err
	}
	err = c.unmarshal(b, &v)
	return v, err
}

// done is the answer to a request that has none.
type done struct{}

func (c *Client) unmarshal(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return sdk.Errorf(sdk.CodeInternal, "decode answer of %s: %v", c.path, err)
	}
	return nil
}

// do sends one request and returns the body of its answer.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body []byte) ([]byte, error) {
	resp, err := c.roundTrip(ctx, method, path, query, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, c.broken(ctx, err)
	case len(b) > maxAnswer:
		return nil, sdk.Errorf(sdk.CodeTooLarge, "read answer of %s: more than %d bytes", c.path, maxAnswer)
	}
	return b, nil
}

// roundTrip sends one request and returns the answer if it is a success.
func (c *Client) roundTrip(ctx context.Context, method, path string, query url.Values, body []byte) (*http.Response, error) {
	u := "http://kernel/v1/" + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.broken(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, MaxBody))
	var e errorBody
	if json.Unmarshal(b, &e) != nil || e.Error == nil {
		return nil, sdk.Errorf(sdk.CodeInternal, "ask %s: unexpected answer %q", c.path, resp.Status)
	}
	return nil, e.Error.decode()
}

// broken types the error of a connection. The URL that net/http puts in
// front of it says nothing here, because the host is always the same.
func (c *Client) broken(ctx context.Context, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var e *sdk.Error
	switch {
	case ctx.Err() == context.DeadlineExceeded:
		return fmt.Errorf("ask %s: %w", c.path, context.Cause(ctx)) // whoever set the deadline says what it means
	case errors.As(err, &e):
		return e
	case ctx.Err() != nil:
		return fmt.Errorf("ask %s: %w", c.path, ctx.Err())
	case errors.Is(err, os.ErrPermission):
		return sdk.Errorf(sdk.CodeDenied, "open %s: %v", c.path, syscall.EACCES)
	}
	return fmt.Errorf("%w: %w", &sdk.Error{Code: sdk.CodeUnavailable, Text: "ask " + c.path}, err)
}

// Version returns what the kernel said when the client was dialled.
func (c *Client) Version() Version { return c.version }

// Status implements [Viewer].
func (c *Client) Status(ctx context.Context) (*Status, error) {
	return fetch[*Status](ctx, c, "status")
}

// Processes implements [Viewer].
func (c *Client) Processes(ctx context.Context) ([]Process, error) {
	return fetch[[]Process](ctx, c, "ps")
}

// Plugins implements [Viewer].
func (c *Client) Plugins(ctx context.Context) ([]Plugin, error) {
	return fetch[[]Plugin](ctx, c, "plugins")
}

// Config implements [Viewer].
func (c *Client) Config(ctx context.Context) ([]Setting, error) {
	return fetch[[]Setting](ctx, c, "config")
}

// cellPath returns the path of a request about a cell.
func cellPath(cell sdk.CellName, what string) string {
	return "cells/" + url.PathEscape(string(cell)) + "/" + what
}

// control asks for a change of t.
func (c *Client) control(ctx context.Context, t Target, verb string) error {
	var q url.Values
	if t.Replica != 0 {
		q = url.Values{"replica": {strconv.Itoa(t.Replica)}}
	}
	_, err := post[done](ctx, c, cellPath(t.Cell, verb), q, done{})
	return err
}

// Start implements [Controller].
func (c *Client) Start(ctx context.Context, t Target) error { return c.control(ctx, t, "start") }

// Stop implements [Controller].
func (c *Client) Stop(ctx context.Context, t Target) error { return c.control(ctx, t, "stop") }

// Restart implements [Controller].
func (c *Client) Restart(ctx context.Context, t Target) error { return c.control(ctx, t, "restart") }

// Scale implements [Controller].
func (c *Client) Scale(ctx context.Context, cell sdk.CellName, replicas int) error {
	_, err := post[done](ctx, c, cellPath(cell, "scale"), nil, scaleBody{&replicas})
	return err
}

// SwapPlugin implements [Controller].
func (c *Client) SwapPlugin(ctx context.Context, from, to string, force bool) error {
	_, err := post[done](ctx, c, "plugins/"+url.PathEscape(from)+"/swap", nil, swapRequest{To: to, Force: force})
	return err
}

// RestartPlugin implements [Controller].
func (c *Client) RestartPlugin(ctx context.Context, name string) error {
	_, err := post[done](ctx, c, "plugins/"+url.PathEscape(name)+"/restart", nil, done{})
	return err
}

// Apply implements [Controller].
func (c *Client) Apply(ctx context.Context, p Plan) ([]Change, error) {
	return post[[]Change](ctx, c, "apply", nil, p)
}

// Describe implements [Caller].
func (c *Client) Describe(ctx context.Context, cell sdk.CellName) ([]Method, error) {
	return fetch[[]Method](ctx, c, cellPath(cell, "methods"))
}

// Launch implements [Caller].
func (c *Client) Launch(ctx context.Context, cell sdk.CellName, command []string) (*Launch, error) {
	return post[*Launch](ctx, c, cellPath(cell, "launch"), nil, launchBody{command})
}

// Call implements [Caller].
func (c *Client) Call(ctx context.Context, r CallRequest) (json.RawMessage, error) {
	q := url.Values{}
	if r.Target.Replica != 0 {
		q.Set("replica", strconv.Itoa(r.Target.Replica))
	}
	if r.Timeout > 0 {
		// A part of a millisecond is a whole one: 0 would mean the default.
		ms := (r.Timeout + time.Millisecond - 1) / time.Millisecond
		q.Set("timeout_ms", strconv.FormatInt(int64(ms), 10))
	}
	b, err := c.do(ctx, http.MethodPost, cellPath(r.Target.Cell, "call/"+url.PathEscape(r.Method)), q, r.Body)
	return bytes.TrimSuffix(b, []byte("\n")), err
}
