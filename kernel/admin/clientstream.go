package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// maxEventLine bounds one line of a stream: a log record at its limit whose
// every byte is escaped, and then some.
const maxEventLine = 1 << 20

// silence is how long a stream may say nothing, not even a comment.
const silence = 3 * heartbeat

// Events implements [Watcher].
func (c *Client) Events(ctx context.Context, after uint64, yield func(Event) error) error {
	q := url.Values{}
	if after > 0 {
		q.Set("after", strconv.FormatUint(after, 10))
	}
	err := follow(ctx, c, streamRequest{method: http.MethodGet, path: "events", query: q}, yield)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Logs implements [Watcher].
func (c *Client) Logs(ctx context.Context, lq LogQuery, yield func(LogRecord) error) error {
	q := url.Values{"source": lq.Sources}
	if !lq.Since.IsZero() {
		q.Set("since", lq.Since.Format(time.RFC3339Nano))
	}
	if lq.Tail > 0 {
		q.Set("tail", strconv.Itoa(lq.Tail))
	}
	if lq.Follow {
		q.Set("follow", "true")
	}
	err := follow(ctx, c, streamRequest{method: http.MethodGet, path: "logs", query: q}, yield)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Down implements [Controller].
func (c *Client) Down(ctx context.Context, r DownRequest, yield func(Event) error) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return follow(ctx, c, streamRequest{method: http.MethodPost, path: "down", body: body}, yield)
}

type streamRequest struct {
	method string
	path   string
	query  url.Values
	body   []byte
}

// follow opens a stream and yields its items until it ends.
func follow[T any](ctx context.Context, c *Client, r streamRequest, yield func(T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(silence, func() {
		cancel(sdk.Errorf(sdk.CodeUnavailable, "read stream of %s: kernel is silent for %v", c.path, silence))
	})
	defer watchdog.Stop()
	resp, err := c.roundTrip(ctx, r.method, r.path, r.query, r.body)
	if err != nil {
		return silent(ctx, err)
	}
	defer resp.Body.Close()
	err = readEvents(resp.Body, func() { watchdog.Reset(silence) }, func(data []byte) error {
		var v T
		if err := c.unmarshal(data, &v); err != nil {
			return err
		}
		// What the caller does with it is not the kernel's silence.
		watchdog.Stop()
		return yield(v)
	})
	var broken *cutError
	if errors.As(err, &broken) {
		return silent(ctx, c.broken(ctx, broken.cause))
	}
	return err
}

// silent prefers the watchdog's error to the cancellation it caused.
func silent(ctx context.Context, err error) error {
	var e *sdk.Error
	if ctx.Err() != nil && errors.As(context.Cause(ctx), &e) {
		return e
	}
	return err
}

// cutError is the error of a stream that ended without saying so.
type cutError struct{ cause error }

func (e *cutError) Error() string { return e.cause.Error() }

// readEvents reads server-sent events from r, calls alive at every line and
// item with the data of every event, until the end event, whose error it returns.
func readEvents(r io.Reader, alive func(), item func(data []byte) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 4<<10), maxEventLine)
	var name string
	var data []byte
	for sc.Scan() {
		alive()
		line := sc.Bytes()
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch {
		case len(line) == 0 && name == sseEnd:
			return endError(data)
		case len(line) == 0 && data != nil:
			if err := item(data); err != nil {
				return err
			}
			alive()
			name, data = "", nil
		case string(field) == "event":
			name = string(value)
		case string(field) == "data":
			data = append([]byte{}, value...)
		}
	}
	if err := sc.Err(); err != nil {
		return &cutError{err}
	}
	return &cutError{io.ErrUnexpectedEOF}
}

// endError returns the error that an end event says.
func endError(data []byte) error {
	var e errorBody
	if err := json.Unmarshal(data, &e); err != nil {
		return sdk.Errorf(sdk.CodeInternal, "decode end of stream: %v", err)
	}
	if e.Error != nil {
		return e.Error.decode()
	}
	return nil
}
