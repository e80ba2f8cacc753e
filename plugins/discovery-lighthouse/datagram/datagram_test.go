package datagram_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/datagram"
	"github.com/cellkernel/cellkernel/sdk"
)

var (
	session = datagram.Session{1, 2, 3, 4, 5, 6, 7, 8}
	cookie  = datagram.Cookie{9, 8, 7}
	key     = ed25519.NewKeyFromSeed(make([]byte, 32))
	there   = netip.MustParseAddrPort("203.0.113.7:40123")
)

func hashes(n int) []datagram.Hash {
	list := make([]datagram.Hash, n)
	for i := range list {
		list[i][0] = byte(i)
	}
	return list
}

// The largest of each kind fits every IPv6 path, and an answer to somebody
// unknown is smaller than the smallest question.
func TestSizes(t *testing.T) {
	e := make(sdk.Envelope, sdk.MaxEnvelope)
	for name, b := range map[string][]byte{
		"register": datagram.AppendRegister(nil, session, cookie, &datagram.Register{Hashes: hashes(sdk.MaxEnvelopes)}, key),
		"give":     datagram.AppendGive(nil, session, cookie, e),
		"part":     datagram.AppendPart(nil, session, e),
		"row":      datagram.AppendRow(nil, session, &datagram.Row{Hashes: hashes(sdk.MaxEnvelopes)}),
	} {
		if len(b) > datagram.MaxSize {
			t.Errorf("%s: %d bytes, want at most %d", name, len(b), datagram.MaxSize)
		}
	}
	answer := len(datagram.AppendCookie(nil, session, cookie))
	for name, b := range map[string][]byte{
		"hello":    datagram.AppendHello(nil, session),
		"register": datagram.AppendRegister(nil, session, cookie, &datagram.Register{}, key),
		"give":     datagram.AppendGive(nil, session, cookie, e[:1]),
		"sync":     datagram.AppendSync(nil, session, cookie, datagram.Sync{}),
	} {
		if len(b) < answer {
			t.Errorf("%s: %d bytes are answered with %d", name, len(b), answer)
		}
	}
}

// The example in docs/discovery.md is what is sent.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile("../../../docs/discovery.md")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile("(?m)^636b4c01 06 [0-9a-f ]+$").FindString(string(text))
	want, err := hex.DecodeString(strings.ReplaceAll(line, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	got := datagram.AppendSync(nil, session, cookie, datagram.Sync{Tag: datagram.Tag{0xaa}, Instance: 1, Cursor: 2, Answer: true})
	if !bytes.Equal(got, want) {
		t.Errorf("sync: got %x, the page says %x", got, want)
	}
}

func TestSignatures(t *testing.T) {
	m := datagram.Register{Boot: 1, Seq: 2, Lease: 9 * time.Second, Port: 5, Hashes: hashes(2)}
	b := datagram.AppendRegister(nil, session, cookie, &m, key)
	if !datagram.Signed(b) {
		t.Fatal("the signature is wrong")
	}
	for i := datagram.CookieSize - len(cookie); i < len(b); i++ {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if _, err := datagram.ParseRegister(bad); err == nil && datagram.Signed(bad) {
			t.Errorf("byte %d is not signed", i)
		}
	}
}

func TestRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u64 := func(what string) uint64 { return rapid.Uint64().Draw(t, what) }
		row := datagram.Row{
			Instance: u64("instance"), Version: u64("version"), Prev: u64("prev"), Gone: rapid.Bool().Draw(t, "gone"), Observed: there,
			Port: rapid.Uint16().Draw(t, "port"), Hashes: hashes(rapid.IntRange(0, sdk.MaxEnvelopes).Draw(t, "hashes")),
		}
		b := datagram.AppendRow(nil, session, &row)
		if got, err := datagram.ParseRow(b); err != nil || !bytes.Equal(datagram.AppendRow(nil, session, &got), b) || got.Observed != there {
			t.Fatalf("row: got %+v, %v, want %+v", got, err, row)
		}
		ack := datagram.Ack{Status: datagram.StatusStale, Live: true, Seq: u64("seq"), Missing: u64("missing"), Boot: u64("boot"), Observed: there}
		if got, err := datagram.ParseAck(datagram.AppendAck(nil, session, ack)); err != nil || got != ack {
			t.Fatalf("ack: got %+v, %v, want %+v", got, err, ack)
		}
		state := datagram.State{Instance: u64("i"), From: u64("from"), Upto: u64("upto"), Current: u64("current")}
		if got, err := datagram.ParseState(datagram.AppendState(nil, session, state)); err != nil || got != state {
			t.Fatalf("state: got %+v, %v, want %+v", got, err, state)
		}
	})
}

// again parses b and writes what was understood.
func again(b []byte) ([]byte, error) {
	kind, s, err := datagram.Head(b)
	if err != nil {
		return nil, err
	}
	switch kind {
	case datagram.KindHello:
		return datagram.AppendHello(nil, s), datagram.CheckHello(b)
	case datagram.KindCookie:
		c, err := datagram.ParseCookie(b)
		return datagram.AppendCookie(nil, s, c), err
	case datagram.KindAck:
		m, err := datagram.ParseAck(b)
		return datagram.AppendAck(nil, s, m), err
	case datagram.KindRow:
		m, err := datagram.ParseRow(b)
		return datagram.AppendRow(nil, s, &m), err
	case datagram.KindPart:
		e, err := datagram.ParsePart(b)
		return datagram.AppendPart(nil, s, e), err
	case datagram.KindState:
		m, err := datagram.ParseState(b)
		return datagram.AppendState(nil, s, m), err
	}
	c, err := datagram.CookieIn(b)
	if err != nil {
		return nil, err
	}
	switch kind {
	case datagram.KindGive:
		e, err := datagram.ParseGive(b)
		return datagram.AppendGive(nil, s, c, e), err
	case datagram.KindSync:
		m, err := datagram.ParseSync(b)
		return datagram.AppendSync(nil, s, c, m), err
	case datagram.KindRegister:
		m, err := datagram.ParseRegister(b)
		if err != nil {
			return nil, err
		}
		datagram.Signed(b) // whatever it says, it returns
		return append(datagram.AppendRegister(nil, s, c, &m, key)[:len(b)-64], b[len(b)-64:]...), nil
	}
	return nil, datagram.ErrMalformed
}

func fuzz(f *testing.F, seeds ...[]byte) {
	for _, b := range seeds {
		f.Add(b)
		f.Add(b[:len(b)-1])
		f.Add(append(bytes.Clone(b), 0))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := again(b)
		if err != nil {
			return
		}
		kind, _, _ := datagram.Head(b)
		switch kind {
		case datagram.KindHello: // the padding has no meaning
			got, b = got[:13], b[:13]
		case datagram.KindRegister: // the key is in it
			copy(got[datagram.CookieSize:], b[datagram.CookieSize:datagram.CookieSize+32])
		}
		if !bytes.Equal(got, b) {
			t.Errorf("understood %x as %x", b, got)
		}
	})
}

// FuzzFromNode reads what a lighthouse has to read.
func FuzzFromNode(f *testing.F) {
	m := datagram.Register{Boot: 1, Seq: 2, Lease: time.Second, Hashes: hashes(3)}
	fuzz(f,
		datagram.AppendHello(nil, session),
		datagram.AppendRegister(nil, session, cookie, &m, key),
		datagram.AppendGive(nil, session, cookie, sdk.Envelope("x")),
		datagram.AppendSync(nil, session, cookie, datagram.Sync{Cursor: 7, Answer: true}),
	)
}

// FuzzFromLighthouse reads what a node has to read.
func FuzzFromLighthouse(f *testing.F) {
	fuzz(f,
		datagram.AppendCookie(nil, session, cookie),
		datagram.AppendAck(nil, session, datagram.Ack{Live: true, Observed: there}),
		datagram.AppendRow(nil, session, &datagram.Row{Gone: true, Observed: there, Hashes: hashes(2)}),
		datagram.AppendPart(nil, session, sdk.Envelope("x")),
		datagram.AppendState(nil, session, datagram.State{Current: 3}),
	)
}
