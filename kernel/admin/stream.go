package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/cellkernel/cellkernel/sdk"
)

// Names of server-sent events.
const (
	sseItem = "message" // the default name: a curl user sees only data lines
	sseEnd  = "end"
)

// A stream is one response of server-sent events (HTML Living Standard,
// section 9.2). All its methods run on the handler's goroutine: sources hand
// their items over in a channel, so that comments can be sent between them.
type stream struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

// produce is a source of items: it calls yield for each and blocks until
// there are no more, ctx is done or yield returned an error.
type produce func(ctx context.Context, yield func(id uint64, item any) error) error

// item is one item on its way from the source to the socket.
type item struct {
	id   uint64
	data []byte
}

// serveStream runs source and sends what it yields, then its result.
func (s *Server) serveStream(w http.ResponseWriter, r *http.Request, source produce) {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		s.fail(w, r, sdk.Errorf(sdk.CodeOverloaded, "open stream: %d are open already", maxStreams))
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	items, done := make(chan item), make(chan error, 1)
	go func() { done <- source(ctx, queue(ctx, items)) }()

	st := &stream{w: w, rc: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	err := st.flush(nil)
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	stop := s.stop
	for err == nil {
		select {
		case it := <-items:
			err = st.flush(appendEvent(nil, sseItem, it))
		case <-ticker.C:
			err = st.flush([]byte(": alive\n\n"))
		case <-stop:
			stop = nil // the source's end follows
			cancel()
		case end := <-done:
			cancel()
			_ = st.flush(appendEvent(nil, sseEnd, item{data: endBody(end)}))
			return
		}
	}
	cancel() // the client left: nobody reads items any more, so end the source
	<-done
}

// queue returns a yield that hands items to the stream.
func queue(ctx context.Context, items chan<- item) func(uint64, any) error {
	return func(id uint64, v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		select {
		case items <- item{id, b}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// endBody is the data of the last event. A source that was told to stop ended
// well.
func endBody(err error) []byte {
	if err == nil || sdk.CodeOf(err) == sdk.CodeCancelled {
		return []byte("{}")
	}
	return encodeError(err)
}

func (st *stream) flush(b []byte) error {
	_ = st.rc.SetWriteDeadline(time.Now().Add(writeLimit))
	if _, err := st.w.Write(b); err != nil {
		return err
	}
	return st.rc.Flush()
}

// appendEvent appends one event. JSON has no raw line ends, so one data line
// is enough.
func appendEvent(b []byte, name string, it item) []byte {
	if it.id != 0 {
		b = append(b, "id: "...)
		b = strconv.AppendUint(b, it.id, 10)
		b = append(b, '\n')
	}
	if name != sseItem {
		b = append(b, "event: "+name+"\n"...)
	}
	b = append(b, "data: "...)
	b = append(b, it.data...)
	return append(b, "\n\n"...)
}

func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	after, err := number(r, "after", 1<<62)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.serveStream(w, r, func(ctx context.Context, yield func(uint64, any) error) error {
		return s.kernel.Events(ctx, uint64(after), func(e Event) error { return yield(e.Seq, e) })
	})
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	q, err := parseLogQuery(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.serveStream(w, r, func(ctx context.Context, yield func(uint64, any) error) error {
		return s.kernel.Logs(ctx, q, func(rec LogRecord) error {
			for _, part := range splitRecord(rec) {
				if err := yield(0, part); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func parseLogQuery(r *http.Request) (LogQuery, error) {
	if err := r.ParseForm(); err != nil {
		return LogQuery{}, sdk.Errorf(sdk.CodeInvalid, "read query: %v", err)
	}
	q := LogQuery{Sources: r.Form["source"], Follow: r.Form.Has("follow") && r.FormValue("follow") != "false"}
	tail, err := number(r, "tail", MaxTail)
	if err != nil {
		return LogQuery{}, err
	}
	q.Tail = int(tail)
	if since := r.FormValue("since"); since != "" {
		if q.Since, err = time.Parse(time.RFC3339Nano, since); err != nil {
			return LogQuery{}, sdk.Errorf(sdk.CodeInvalid, "parameter since=%.40q: want a time like 2006-01-02T15:04:05Z", since)
		}
	}
	return q, nil
}

// splitRecord cuts a record of a very long line into pieces of at most
// MaxLogText bytes, between characters.
func splitRecord(rec LogRecord) []LogRecord {
	var parts []LogRecord
	for len(rec.Text) > MaxLogText {
		cut := MaxLogText
		for cut > MaxLogText-utf8.UTFMax && !utf8.RuneStart(rec.Text[cut]) {
			cut--
		}
		piece := rec
		piece.Text, piece.Partial = rec.Text[:cut], true
		parts = append(parts, piece)
		rec.Text = rec.Text[cut:]
	}
	return append(parts, rec)
}

func (s *Server) down(w http.ResponseWriter, r *http.Request) {
	var req DownRequest
	if err := decode(w, r, &req); err != nil {
		s.fail(w, r, err)
		return
	}
	s.serveStream(w, r, func(ctx context.Context, yield func(uint64, any) error) error {
		return s.kernel.Down(ctx, req, func(e Event) error { return yield(e.Seq, e) })
	})
}
