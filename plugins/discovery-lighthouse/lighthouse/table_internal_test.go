package lighthouse

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/datagram"
	"github.com/cellkernel/cellkernel/sdk"
)

// small are limits that a short test meets.
var small = Limits{
	Nodes: 10, PerSource: 4, PerPrefix: 6, PerMesh: 8, Envelopes: 14, SourceSize: 8, PrefixSize: 9, MeshSize: 12,
	Datagrams: 1e9, Signatures: 1e9, Cookies: 1e9,
}

// A model is what must be true of a table: who is registered with what, until
// when.
type model struct {
	t     *table
	now   time.Time
	seq   uint64
	alive map[datagram.ID]*registered
}

type registered struct {
	from      netip.AddrPort
	envelopes []sdk.Envelope
	expires   time.Time
}

func address(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i / 2 % 2), byte(i % 2)}), uint16(1+i/4))
}

func TestTableModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{t: newTable(small), now: time.Unix(1e9, 0), alive: map[datagram.ID]*registered{}}
		t.Repeat(map[string]func(*rapid.T){
			"register": m.register,
			"goodbye":  m.goodbye,
			"wait":     m.wait,
			"watch":    m.watch,
			"":         m.check,
		})
	})
}

func (m *model) draw(t *rapid.T) (netip.AddrPort, *datagram.Register) {
	m.seq++
	r := &datagram.Register{
		Key: [32]byte{byte(rapid.IntRange(0, 15).Draw(t, "key"))}, Tag: datagram.Tag{byte(rapid.IntRange(0, 1).Draw(t, "tag"))},
		Boot: 1, Seq: m.seq, Lease: 9 * time.Second,
	}
	return address(rapid.IntRange(0, 15).Draw(t, "from")), r
}

func (m *model) register(t *rapid.T) {
	from, r := m.draw(t)
	var envelopes []sdk.Envelope
	for i := range rapid.IntRange(1, 3).Draw(t, "envelopes") {
		e := sdk.Envelope(fmt.Sprintf("%d of %d", i, rapid.IntRange(0, 3).Draw(t, "content")))
		envelopes, r.Hashes = append(envelopes, e), append(r.Hashes, datagram.HashOf(e))
	}
	before, loads := maps.Clone(m.alive), m.loads()
	ack, why := m.t.register(m.now, from, datagram.Session{}, r)
	if (ack.Status == datagram.StatusFull) != (why != "") || ack.Status == datagram.StatusStale {
		t.Fatalf("got %+v, %q", ack, why)
	}
	after := m.loads()[network(from.Addr())]
	for id, old := range before { // whoever was there is there, or of a prefix that had more
		if row := m.t.rows[id]; id != r.ID() && (row == nil || row.gone || row.from != old.from) {
			net := network(old.from.Addr())
			if had := loads[net]; net == network(from.Addr()) || had.nodes <= after.nodes && had.envelopes <= after.envelopes {
				t.Fatalf("a registration of %v, with %v now, pushed out that of %v, with %v", from, after, old.from, had)
			}
			delete(m.alive, id)
		}
	}
	if why != "" {
		return
	}
	for i, e := range envelopes {
		if ack.Missing&(1<<i) != 0 {
			m.t.give(from, datagram.Session{}, e)
		}
	}
	m.alive[r.ID()] = &registered{from, envelopes, m.now.Add(r.Lease)}
	// One address holds one incomplete registration; here all are complete.
	if len(m.t.filling) != 0 {
		t.Fatalf("%d rows are incomplete", len(m.t.filling))
	}
}

// loads returns what each prefix takes.
func (m *model) loads() map[netip.Prefix]load {
	all := map[netip.Prefix]load{}
	for _, r := range m.t.rows {
		all[network(r.from.Addr())] = all[network(r.from.Addr())].add(r.load)
	}
	return all
}

// Whatever a few networks bring, others find room: in the table, in a mesh,
// and among those who watch.
func TestNoNetworkKeepsOthersOut(t *testing.T) {
	for name, tag := range map[string]func(int) datagram.Tag{
		"one mesh":    func(int) datagram.Tag { return datagram.Tag{} },
		"many meshes": func(i int) datagram.Tag { return datagram.Tag{byte(i), byte(i >> 8), 1} },
	} {
		t.Run(name, func(t *testing.T) {
			tab, now, seq := newTable(DefaultLimits()), time.Unix(1e9, 0), uint64(0)
			register := func(from netip.AddrPort, tag datagram.Tag, envelopes int) string {
				seq++
				r := &datagram.Register{Key: [32]byte{byte(seq), byte(seq >> 8), byte(seq >> 16)}, Tag: tag, Boot: 1, Seq: seq, Lease: maxLease}
				for i := range envelopes {
					r.Hashes = append(r.Hashes, datagram.Hash{byte(seq), byte(seq >> 8), byte(i)})
				}
				_, why := tab.register(now, from, datagram.Session{}, r)
				return why
			}
			for i := range 40 * 64 { // forty /24 networks, 64 addresses of each
				net, host := i%40, i/40
				from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(net), byte(host)}), 9)
				for range 8 {
					register(from, tag(i), 1+63*(net%2))
				}
				tab.subscribe(now, from, datagram.Session{}, datagram.Sync{Tag: tag(i)})
			}
			for i := range 20 {
				from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, byte(i), 0, 1}), 9)
				if why := register(from, tag(0), 8); why != "" {
					t.Errorf("node %d of a new network: the limit of the %s refuses it", i, why)
				}
				if _, why := tab.subscribe(now, from, datagram.Session{}, datagram.Sync{Tag: tag(0)}); why != "" {
					t.Errorf("subscription %d of a new network: the limit of the %s refuses it", i, why)
				}
			}
			if all := tab.nodes.all; all.nodes > 4096 || all.envelopes > 8192 || len(tab.subs) > 4096 {
				t.Errorf("the table has %+v, %d subscriptions", all, len(tab.subs))
			}
		})
	}
}

// One network alone, in many addresses, takes an eighth of the envelopes.
func TestEnvelopesOfANetworkAreLimited(t *testing.T) {
	q := newQuota(DefaultLimits())
	taken := 0
	for i := range 16 * 8 {
		a := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 0, 0, byte(i % 16)}) // a /60
		if q.refuses(a, datagram.Tag{byte(i)}, load{1, 64}) == "" {
			q.count(a, datagram.Tag{byte(i)}, load{1, 64})
			taken += 64
		}
	}
	if taken != 1024 {
		t.Errorf("it took %d envelopes", taken)
	}
}

func (m *model) goodbye(t *rapid.T) {
	from, r := m.draw(t)
	m.t.register(m.now, from, datagram.Session{}, r)
	delete(m.alive, r.ID())
}

func (m *model) wait(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(1, 200).Draw(t, "seconds")) * time.Second)
	m.t.expire(m.now)
	for id, r := range m.alive {
		if !r.expires.After(m.now) {
			delete(m.alive, id)
		}
	}
}

// watch reads a group from some version on, as one who watches does.
func (m *model) watch(t *rapid.T) {
	tag := datagram.Tag{byte(rapid.IntRange(0, 1).Draw(t, "tag"))}
	from := address(rapid.IntRange(0, 15).Draw(t, "from"))
	seen := map[string]int{}
	for cursor := (datagram.Sync{Tag: tag}); ; {
		w, why := m.t.subscribe(m.now, from, datagram.Session{}, cursor)
		if why != "" {
			return
		}
		var s datagram.State
		w.send(m.now, func(_ *sub, b []byte) {
			switch k, _, _ := datagram.Head(b); k {
			case datagram.KindPart:
				e, _ := datagram.ParsePart(b)
				seen[string(e)]++
			case datagram.KindState:
				s, _ = datagram.ParseState(b)
			}
		})
		if s.Upto == s.Current {
			break
		}
		if s.Upto <= cursor.Cursor && cursor.Instance == s.Instance {
			t.Fatalf("no progress: %+v", s)
		}
		cursor.Instance, cursor.Cursor = s.Instance, s.Upto
	}
	want := map[string]int{}
	for id, r := range m.alive {
		if m.t.rows[id].group.tag == tag {
			for _, e := range r.envelopes {
				want[string(e)]++
			}
		}
	}
	if !maps.Equal(seen, want) {
		t.Fatalf("group %x: saw %v, want %v", tag, seen, want)
	}
}

// check compares the table with the model, and its counts with its rows.
func (m *model) check(t *rapid.T) {
	if live := m.t.live(); live != len(m.alive) {
		t.Fatalf("%d live rows, want %d", live, len(m.alive))
	}
	q := newQuota(small)
	for id, r := range m.t.rows {
		q.count(r.from.Addr(), r.group.tag, r.load)
		if want := m.alive[id]; want != nil {
			same := slices.EqualFunc(r.shown.envelopes, want.envelopes, func(a, b sdk.Envelope) bool { return bytes.Equal(a, b) })
			if r.gone || !same || r.from != want.from {
				t.Fatalf("row %x: %+v, want %+v", id, r, want)
			}
		}
	}
	if q.all != m.t.nodes.all || !maps.Equal(q.places, m.t.nodes.places) || !maps.Equal(q.tags, m.t.nodes.tags) {
		t.Fatalf("counted %+v, want %+v", m.t.nodes, q)
	}
	if q.all.nodes > small.Nodes || q.all.envelopes > small.Envelopes {
		t.Fatalf("beyond the limits: %+v", q.all)
	}
	for _, g := range m.t.groups {
		last := uint64(0)
		for e := g.rows.Front(); e != nil; e = e.Next() {
			if v := e.Value.(*row).version; v <= last || v > g.version {
				t.Fatalf("version %d after %d, of %d", v, last, g.version)
			} else {
				last = v
			}
		}
		if g.members == 0 && len(g.subs) == 0 {
			t.Fatal("an empty group stays")
		}
	}
}

// A flood is a socket from which more comes than any could bring.
type flood struct {
	next    func(b []byte) (int, netip.AddrPort)
	cookies map[netip.AddrPort]datagram.Cookie
	rounds  int
}

func (f *flood) ReadMsgUDPAddrPort(b, _ []byte) (n, oobn, flags int, from netip.AddrPort, err error) {
	if f.rounds--; f.rounds < 0 {
		return 0, 0, 0, from, net.ErrClosed
	}
	n, from = f.next(b)
	return n, 0, 0, from, nil
}

func (f *flood) WriteMsgUDPAddrPort(b, _ []byte, to netip.AddrPort) (n, oobn int, err error) {
	if k, _, _ := datagram.Head(b); k == datagram.KindCookie && f.cookies != nil {
		f.cookies[to], _ = datagram.ParseCookie(b)
	}
	return len(b), 0, nil
}

func (f *flood) LocalAddr() net.Addr { return &net.UDPAddr{} }
func (f *flood) Close() error        { return nil }

// resident returns the memory of this process in bytes.
func resident(t *testing.T) int {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("no /proc/self/statm")
	}
	var size, pages int
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// Promise P12: a million forged datagrams, and as many good registrations as
// anybody who owns addresses can make, leave the table within its limits and
// who is there where it is.
func TestFlood(t *testing.T) {
	forged, keys, o := 1_000_000, 8000, Options{}
	short := testing.Short() || raced // then memory means nothing
	if short {
		forged, keys, o.Limits = 50_000, 600, DefaultLimits()
		o.Limits.Nodes = 300
	}
	f := &flood{cookies: map[netip.AddrPort]datagram.Cookie{}}
	s := New(f, o)
	// No lease ends while a slow machine is at it.
	now := time.Now().Add(time.Hour)
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	honest := netip.MustParseAddrPort("192.0.2.1:5000")
	sign := func(from netip.AddrPort, m *datagram.Register) []byte {
		s.handle(now, request{from: from, b: datagram.AppendHello(nil, datagram.Session{})})
		return datagram.AppendRegister(nil, datagram.Session{}, f.cookies[from], m, key)
	}
	e := sdk.Envelope(bytes.Repeat([]byte("e"), sdk.MaxEnvelope))
	register := func(from netip.AddrPort, tag byte) {
		m := &datagram.Register{Tag: datagram.Tag{tag}, Boot: 1, Seq: 1, Lease: 30 * time.Second, Hashes: []datagram.Hash{datagram.HashOf(e)}}
		s.handle(now, request{from: from, b: sign(from, m)})
		s.handle(now, request{from: from, b: datagram.AppendGive(nil, datagram.Session{}, f.cookies[from], e)})
	}
	register(honest, 0)
	honestID := (&datagram.Register{Key: [32]byte(key.Public().(ed25519.PublicKey))}).ID()
	runtime.GC()
	before := resident(t)

	for i := range keys { // with cookies: many addresses, a key for each
		key = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(i), byte(i >> 8), 1, 2}, 8))
		register(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 1), byte(i%8))
		clear(f.cookies)
	}
	f.cookies = nil
	template := sign(honest, &datagram.Register{Boot: 2, Seq: 1, Hashes: make([]datagram.Hash, 4)})
	i := uint64(0)
	f.rounds, f.next = forged, func(b []byte) (int, netip.AddrPort) {
		i++
		n := copy(b, template)
		copy(b[datagram.CookieSize-16:], fmt.Sprintf("%016x", i*0x9e3779b97f4a7c15))
		return n, netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(i), byte(i >> 8), byte(i >> 16), 7}), uint16(i))
	}
	if err := s.Serve(t.Context()); err == nil {
		t.Fatal("the flood never ended")
	}
	debug.FreeOSMemory() // of the garbage that this test made
	grown, st := resident(t)-before, s.Stats()
	t.Logf("%d datagrams: %d nodes, %d KiB grown", st.Received, st.Nodes, grown>>10)
	if st.Nodes != s.limits.Nodes || grown > 32<<20 && !short || st.Strangers != uint64(forged) {
		t.Errorf("grown by %d bytes; %+v", grown, st)
	}
	if r := s.table.rows[honestID]; r == nil || r.gone || r.from != honest {
		t.Errorf("the honest node is %+v", r)
	}
}

// FuzzServer: whatever comes, nothing is kept of strangers, and no more is
// sent to them than came.
func FuzzServer(f *testing.F) {
	f.Add(datagram.AppendHello(nil, datagram.Session{}))
	f.Add(datagram.AppendSync(nil, datagram.Session{}, datagram.Cookie{}, datagram.Sync{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := New(&flood{}, Options{})
		from := netip.MustParseAddrPort("192.0.2.1:5000")
		s.handle(time.Now(), request{from: from, b: b})
		if st := s.Stats(); st.SentBytes > st.ReceivedBytes || st.Nodes+st.Watchers+st.Meshes != 0 {
			t.Fatalf("%x: %+v", b, st)
		}
		if len(b) < datagram.CookieSize {
			return
		}
		good := s.jar.cookie(from)
		copy(b[datagram.CookieSize-len(good):], good[:])
		s.handle(time.Now(), request{from: from, b: b})
		s.tick(time.Now().Add(time.Hour))
		s.tick(time.Now().Add(2 * time.Hour))
		if st := s.Stats(); st.Nodes+st.Watchers+st.Meshes != 0 {
			t.Fatalf("%x: %+v stays", b, st)
		}
	})
}
