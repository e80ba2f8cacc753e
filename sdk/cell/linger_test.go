package cell_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk/wire"
)

// A shared buffer is written by loggers of several goroutines.
type sharedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

// Write implements io.Writer.
func (s *sharedBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *sharedBuffer) lines(word string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []string
	for line := range strings.Lines(s.b.String()) {
		if strings.Contains(line, word) {
			found = append(found, line)
		}
	}
	return found
}

// captureLog keeps what is logged during a test, which must not be parallel.
func captureLog(t *testing.T) *sharedBuffer {
	w, old := new(sharedBuffer), slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(w, nil)))
	t.Cleanup(func() { slog.SetDefault(old) })
	return w
}

// Of handlers that never return one line tells, with method and caller; of
// those that return in time none does. Meanwhile a link whose other side says
// one byte a second is ended, and the log names it.
func TestTheLogNamesWhoLingers(t *testing.T) {
	log := captureLog(t)
	k := puppet(t)
	h := newHold(t)
	k.serve(h.handle)
	good := k.open()
	good.echoes()
	slow := k.openSilent()
	p := k.open()
	for id := range uint32(20) {
		p.request(id, mEcho, nil)
	}
	waitFor(t, func() bool { return h.running.Load() == 20 })
	for id := range uint32(20) {
		p.say(wire.KindCancel, 0, id, nil)
	}
	hello := frame(wire.Header{Kind: wire.KindSettings, Flags: wire.FlagJSON}, settingsOf(t, generous))
	begin := time.Now()
	for _, b := range hello {
		if slow.write([]byte{b}) != nil {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	if d := time.Since(begin); d < 4*time.Second || d > patience {
		t.Errorf("the slow link ended after %s", d)
	}
	waitFor(t, func() bool { return len(log.lines("handler goes on")) > 0 })
	good.echoes()
	p.echoes()
	h.release()
	waitFor(t, func() bool { return h.running.Load() == 0 })
	lines := log.lines("handler goes on")
	if len(lines) != 1 || !strings.Contains(lines[0], "method=Echo.Echo") || !strings.Contains(lines[0], "cell=hostile") {
		t.Errorf("log of handlers: %q", lines)
	}
	lines = log.lines("no settings within 5s")
	if len(lines) != 1 || !strings.Contains(lines[0], "cell=hostile") {
		t.Errorf("log of the slow link: %q", lines)
	}
}
