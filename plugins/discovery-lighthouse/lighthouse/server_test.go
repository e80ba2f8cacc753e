package lighthouse_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/datagram"
	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/lighthouse"
	"github.com/cellkernel/cellkernel/sdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func serve(t testing.TB, addr string, o lighthouse.Options) *lighthouse.Server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s, err := lighthouse.Listen(ctx, addr, o)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s
}

// A raw node says what a test wants it to say.
type raw struct {
	t       testing.TB
	conn    net.Conn
	id      datagram.Session
	cookie  datagram.Cookie
	key     ed25519.PrivateKey
	boot    uint64
	seq     uint64
	in, out int // bytes
}

func dial(t testing.TB, s *lighthouse.Server, from string) *raw {
	t.Helper()
	d := net.Dialer{}
	if from != "" {
		d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
	}
	conn, err := d.Dial("udp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r := &raw{t: t, conn: conn, key: newKey(), boot: 1}
	r.id[0] = byte(rand.Uint32())
	return r
}

func newKey() ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err) // crypto/rand never fails
	}
	return key
}

func (r *raw) send(b []byte) {
	r.t.Helper()
	n, err := r.conn.Write(b)
	if err != nil {
		r.t.Fatal(err)
	}
	r.out += n
}

// next returns the next datagram of a kind; nil: none came in time.
func (r *raw) next(kind datagram.Kind, within time.Duration) []byte {
	r.t.Helper()
	buf := make([]byte, datagram.MaxSize)
	for end := time.Now().Add(within); ; {
		r.conn.SetReadDeadline(end)
		n, err := r.conn.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			r.t.Fatal(err)
		}
		r.in += n
		if k, id, err := datagram.Head(buf[:n]); err != nil {
			r.t.Fatalf("got %x: %v", buf[:n], err)
		} else if k == kind && id == r.id {
			return buf[:n]
		}
	}
}

func (r *raw) want(kind datagram.Kind) []byte {
	r.t.Helper()
	b := r.next(kind, 5*time.Second)
	if b == nil {
		r.t.Fatalf("no datagram of kind %d came", kind)
	}
	return b
}

func (r *raw) hello() *raw {
	r.t.Helper()
	r.send(datagram.AppendHello(nil, r.id))
	c, err := datagram.ParseCookie(r.want(datagram.KindCookie))
	if err != nil {
		r.t.Fatal(err)
	}
	r.cookie = c
	return r
}

// registration makes one of envelopes and returns its bytes.
func (r *raw) registration(tag datagram.Tag, envelopes ...sdk.Envelope) []byte {
	r.seq++
	m := datagram.Register{Tag: tag, Boot: r.boot, Seq: r.seq, Lease: 3 * time.Second}
	for _, e := range envelopes {
		m.Hashes = append(m.Hashes, datagram.HashOf(e))
	}
	return datagram.AppendRegister(nil, r.id, r.cookie, &m, r.key)
}

func (r *raw) ack() datagram.Ack {
	r.t.Helper()
	a, err := datagram.ParseAck(r.want(datagram.KindAck))
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

// register registers envelopes until the lighthouse has all of them.
func (r *raw) register(tag datagram.Tag, envelopes ...sdk.Envelope) datagram.Ack {
	r.t.Helper()
	r.send(r.registration(tag, envelopes...))
	a := r.ack()
	for i := 0; a.Missing != 0; i++ {
		if a.Missing&(1<<i) != 0 {
			r.send(datagram.AppendGive(nil, r.id, r.cookie, envelopes[i]))
			a = r.ack()
		}
	}
	return a
}

// snapshot asks for everything of a group and returns its envelopes.
func (r *raw) snapshot(tag datagram.Tag) map[string]bool {
	r.t.Helper()
	m := datagram.Sync{Tag: tag, Answer: true}
	seen := map[string]bool{}
	buf := make([]byte, datagram.MaxSize)
	for {
		r.send(datagram.AppendSync(nil, r.id, r.cookie, m))
		for page := true; page; {
			r.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			n, err := r.conn.Read(buf)
			if err != nil {
				r.t.Fatal(err)
			}
			switch kind, _, _ := datagram.Head(buf[:n]); kind {
			case datagram.KindPart:
				e, _ := datagram.ParsePart(buf[:n])
				seen[string(e)] = true
			case datagram.KindState:
				s, err := datagram.ParseState(buf[:n])
				if err != nil || s.Status != datagram.StatusOK {
					r.t.Fatalf("state %+v, %v", s, err)
				}
				if s.Upto == s.Current {
					return seen
				}
				m.Instance, m.Cursor, page = s.Instance, s.Upto, false
			}
		}
	}
}

// Who did not return its cookie is sent no more than it sent, whatever that
// was, and nothing of it is kept.
func TestNothingWithoutACookie(t *testing.T) {
	s := serve(t, "127.0.0.1:0", lighthouse.Options{})
	r := dial(t, s, "")
	e := sdk.Envelope(bytes.Repeat([]byte("e"), sdk.MaxEnvelope))
	for i := range 2000 {
		r.cookie[i%16]++ // never a good one
		var b []byte
		switch i % 6 {
		case 0:
			b = datagram.AppendHello(nil, r.id)
		case 1:
			b = r.registration(datagram.Tag{1}, e)
		case 2:
			b = datagram.AppendGive(nil, r.id, r.cookie, e[:1+i%len(e)])
		case 3:
			b = datagram.AppendSync(nil, r.id, r.cookie, datagram.Sync{Answer: true})
		case 4:
			b = datagram.AppendHello(nil, r.id)[:1+i%(datagram.HelloSize-1)]
		case 5:
			b = append(datagram.AppendCookie(nil, r.id, r.cookie), make([]byte, i%40)...)
			b[4] = byte(i)
		}
		r.send(b)
		if i%50 == 49 {
			for r.next(0xff, 10*time.Millisecond) != nil { // reads what there is
			}
		}
		if r.in > r.out {
			t.Fatalf("after %d datagrams: %d bytes sent, %d received", i+1, r.out, r.in)
		}
	}
	st := s.Stats()
	if r.in == 0 || st.SentBytes > st.ReceivedBytes || st.Nodes+st.Watchers+st.Meshes != 0 {
		t.Errorf("received %d bytes; %+v", r.in, st)
	}
}

func TestCookiesAreForOneAddress(t *testing.T) {
	s := serve(t, "127.0.0.1:0", lighthouse.Options{})
	a, b := dial(t, s, "").hello(), dial(t, s, "")
	b.cookie, b.id = a.cookie, a.id
	b.send(b.registration(datagram.Tag{1}, sdk.Envelope("x")))
	b.want(datagram.KindCookie)
	if st := s.Stats(); st.Nodes != 0 || st.Strangers != 1 {
		t.Errorf("got %+v", st)
	}
}

func TestOnlyTheOwnerChangesARegistration(t *testing.T) {
	s := serve(t, "127.0.0.1:0", lighthouse.Options{})
	tag, mine := datagram.Tag{7}, sdk.Envelope("mine")
	owner, thief, reader := dial(t, s, "").hello(), dial(t, s, "").hello(), dial(t, s, "").hello()
	owner.register(tag, mine)
	goodbye := owner.registration(tag)
	owner.register(tag, mine) // newer than that goodbye

	thief.boot, thief.seq = 1<<60, 1
	forged := thief.registration(tag)
	copy(forged[datagram.CookieSize:], owner.key.Public().(ed25519.PublicKey))
	thief.send(forged)  // the owner's key, the thief's signature
	thief.send(goodbye) // the owner's signature, over the owner's cookie
	thief.register(tag, sdk.Envelope("theirs"))
	owner.send(goodbye) // even from the right address
	if a := owner.ack(); a.Status != datagram.StatusStale || !a.Live {
		t.Errorf("a replayed goodbye: got %+v", a)
	}
	if got := reader.snapshot(tag); len(got) != 2 || !got["mine"] {
		t.Errorf("got %v, want the owner's and the thief's own", got)
	}
	old := owner.registration(tag, mine)
	owner.register(tag)
	owner.send(old)
	if a := owner.ack(); a.Status != datagram.StatusStale || a.Live {
		t.Errorf("a replay after the goodbye: got %+v", a)
	}
	if got := reader.snapshot(tag); len(got) != 1 {
		t.Errorf("after the goodbye: got %v", got)
	}
	if st := s.Stats(); st.Forged != 1 || st.Stale != 2 || st.Strangers != 1 {
		t.Errorf("got %+v", st)
	}
}

// A node gets what has its tag, however much that is, and nothing else.
func TestSnapshotsArePagedAndOfOneMesh(t *testing.T) {
	s := serve(t, "127.0.0.1:0", lighthouse.Options{})
	one, two := datagram.Tag{1}, datagram.Tag{2}
	for i := range 50 {
		e := bytes.Repeat([]byte{byte(i)}, sdk.MaxEnvelope)
		dial(t, s, "").hello().register(one, e, append([]byte{1}, e[1:]...))
	}
	dial(t, s, "").hello().register(two, sdk.Envelope("other"))
	r := dial(t, s, "").hello()
	if got := r.snapshot(one); len(got) != 100-1 || got["other"] { // i = 1 has the same twice
		t.Errorf("got %d envelopes, want 99", len(got))
	}
	if got := r.snapshot(two); len(got) != 1 || !got["other"] {
		t.Errorf("got %d envelopes of the other mesh", len(got))
	}
}

// Whatever one source does, the registrations of others stay.
func TestLimitsProtectWhoIsThere(t *testing.T) {
	l := lighthouse.DefaultLimits()
	l.Nodes, l.PerSource, l.PerPrefix, l.PerMesh = 24, 8, 12, 20
	s := serve(t, "127.0.0.1:0", lighthouse.Options{Limits: l})
	tag := datagram.Tag{1}
	honest := dial(t, s, "127.9.9.9").hello()
	honest.register(tag, sdk.Envelope("honest"))
	refused := 0
	for i := range 60 { // six sources in three prefixes
		from := "127." + string('1'+rune(i%3)) + ".0." + string('1'+rune(i%2))
		r := dial(t, s, from).hello()
		if r.register(tag, sdk.Envelope{byte(i)}).Status == datagram.StatusFull {
			refused++
		}
	}
	st := s.Stats()
	if st.Nodes != 20 || refused != 60-19 || st.Refused != uint64(refused) {
		t.Errorf("refused %d; %+v: want 20 nodes of one mesh", refused, st)
	}
	if a := honest.register(tag, sdk.Envelope("honest 2")); a.Status != datagram.StatusOK {
		t.Errorf("an honest node in a full table: %+v", a)
	}
	r := dial(t, s, "127.9.9.8").hello()
	if got := r.snapshot(tag); !got["honest 2"] || len(got) != 20 {
		t.Errorf("got %v", got)
	}
	honest.register(tag) // its tombstone keeps its place
	if a := honest.register(tag, sdk.Envelope("back")); a.Status != datagram.StatusOK {
		t.Errorf("back after a goodbye: %+v", a)
	}
}

func TestMetrics(t *testing.T) {
	s := serve(t, "127.0.0.1:0", lighthouse.Options{})
	dial(t, s, "").hello().register(datagram.Tag{1}, sdk.Envelope("x"))
	w := httptest.NewRecorder()
	s.Metrics().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	text, _ := io.ReadAll(w.Body)
	for _, want := range []string{"cellkernel_lighthouse_nodes 1\n", "cellkernel_lighthouse_cookies_total 1\n", "cellkernel_lighthouse_received_total 3\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in the metrics", want)
		}
	}
}

func TestProbe(t *testing.T) {
	s := serve(t, "[::1]:0", lighthouse.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := lighthouse.Probe(ctx, s.Addr().String()); err != nil {
		t.Error(err)
	}
	free, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	if err := lighthouse.Probe(ctx, free.LocalAddr().String()); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("probe nothing: %v", err)
	}
}

// A machine has many addresses; the answer leaves from the one that was asked.
func TestAnswersLeaveFromTheAddressAsked(t *testing.T) {
	for _, listen := range []string{":0", "0.0.0.0:0"} {
		s := serve(t, listen, lighthouse.Options{})
		_, port, _ := net.SplitHostPort(s.Addr().String())
		for _, host := range []string{"127.0.0.1", "127.0.0.5", "::1"} {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if err := lighthouse.Probe(ctx, net.JoinHostPort(host, port)); err != nil {
				t.Errorf("listen at %s: %v", listen, err)
			}
			cancel()
		}
	}
}
