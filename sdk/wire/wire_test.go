package wire_test

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk/wire"
	"pgregory.net/rapid"
)

// allowed are the flags of each kind, as docs/wire.md has them.
var allowed = map[wire.Kind]wire.Flags{
	wire.KindSettings: wire.FlagMore | wire.FlagJSON,
	wire.KindRequest:  wire.FlagMore | wire.FlagMeta | wire.FlagJSON | wire.FlagNone,
	wire.KindReply:    wire.FlagMore | wire.FlagJSON | wire.FlagNone,
	wire.KindError:    0,
	wire.KindCancel:   0,
	wire.KindMessage:  wire.FlagMore | wire.FlagJSON | wire.FlagEnd | wire.FlagNone,
	wire.KindFragment: wire.FlagMore,
	wire.KindCredit:   0,
	wire.KindPing:     0,
	wire.KindPong:     0,
	wire.KindGoAway:   0,
}

var bodiless = map[wire.Kind]bool{wire.KindCancel: true, wire.KindCredit: true, wire.KindPing: true, wire.KindPong: true}

// wellFormed says by the words of docs/wire.md whether a header is right.
func wellFormed(h wire.Header) bool {
	flags, known := allowed[h.Kind]
	has := func(f wire.Flags) bool { return h.Flags&f != 0 }
	limit := uint32(wire.MaxPayload)
	if has(wire.FlagMeta) {
		limit = wire.MaxBody
	}
	return known && h.Flags&^flags == 0 && h.Size <= limit &&
		!(bodiless[h.Kind] && h.Size > 0) &&
		!(has(wire.FlagMore) && (has(wire.FlagNone) || has(wire.FlagEnd))) &&
		!(has(wire.FlagNone) && h.Size > 0 && !has(wire.FlagMeta)) &&
		!(h.Kind == wire.KindMessage && has(wire.FlagNone) && !has(wire.FlagEnd))
}

func TestEveryHeaderIsRightOrRefused(t *testing.T) {
	for kind := range 256 {
		for flags := range 256 {
			for _, size := range []uint32{0, 1, wire.MaxPayload, wire.MaxPayload + 1, wire.MaxBody, wire.MaxBody + 1, math.MaxUint32} {
				h := wire.Header{Size: size, Kind: wire.Kind(kind), Flags: wire.Flags(flags), Aux: 0xfedc, Call: 0xba987654, Value: 0x32107654}
				got, err := wire.ParseHeader(wire.AppendHeader(nil, h))
				if (err == nil) != wellFormed(h) {
					t.Fatalf("%+v: %v", h, err)
				}
				if got != h {
					t.Fatalf("%+v came back as %+v", h, got)
				}
				if err != nil && !strings.HasPrefix(err.Error(), "parse frame: ") {
					t.Errorf("error %q", err)
				}
			}
		}
	}
}

func headers() *rapid.Generator[wire.Header] {
	return rapid.Custom(func(t *rapid.T) wire.Header {
		return wire.Header{
			Kind:  wire.Kind(rapid.IntRange(1, 11).Draw(t, "kind")),
			Flags: wire.Flags(rapid.IntRange(0, 31).Draw(t, "flags")),
			Aux:   rapid.Uint16().Draw(t, "aux"),
			Call:  rapid.Uint32().Draw(t, "call"),
			Value: rapid.Uint32().Draw(t, "value"),
		}
	})
}

func TestFramesComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		var hs []wire.Header
		var bodies [][]byte
		for range rapid.IntRange(1, 8).Draw(t, "frames") {
			h := headers().Draw(t, "header")
			body := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "body")
			h.Size = uint32(len(body))
			if !wellFormed(h) {
				continue
			}
			stream = wire.AppendFrame(stream, h, body)
			hs, bodies = append(hs, h), append(bodies, body)
		}
		rest := stream
		for i, want := range hs {
			if len(rest)%8 != 0 {
				t.Fatalf("frame %d does not begin at a multiple of 8", i)
			}
			cut := rapid.IntRange(0, want.Len()-1).Draw(t, "cut")
			if _, _, _, err := wire.ParseFrame(rest[:cut]); err != wire.ErrShort {
				t.Fatalf("%d of %d bytes: %v", cut, want.Len(), err)
			}
			h, body, n, err := wire.ParseFrame(rest)
			if err != nil || h != want || !bytes.Equal(body, bodies[i]) || n != want.Len() || cap(body) != len(body) {
				t.Fatalf("%+v %x came back as %+v %x, %d, %v", want, bodies[i], h, body, n, err)
			}
			rest = rest[n:]
		}
		if len(rest) != 0 {
			t.Fatalf("%d bytes are left", len(rest))
		}
	})
}

func TestPaddingIsZero(t *testing.T) {
	for size := range 17 {
		b := wire.AppendFrame(nil, wire.Header{Kind: wire.KindReply}, bytes.Repeat([]byte{0xff}, size))
		for i := wire.HeaderSize + size; i < len(b); i++ {
			dirty := bytes.Clone(b)
			dirty[i] = 1
			if _, _, _, err := wire.ParseFrame(dirty); err == nil || err == wire.ErrShort {
				t.Errorf("body of %d, byte %d: %v", size, i, err)
			}
		}
	}
}

func TestPutHeaderChangesTheHeaderAlone(t *testing.T) {
	b := bytes.Repeat([]byte{0xaa}, 24)
	h := wire.Header{Size: 8, Kind: wire.KindError, Aux: 3}
	wire.PutHeader(b, h)
	if got, err := wire.ParseHeader(b); err != nil || got != h || !bytes.Equal(b[16:], bytes.Repeat([]byte{0xaa}, 8)) {
		t.Errorf("got %+v, %v, %x", got, err, b[16:])
	}
}

func TestTooLongBodiesPanic(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	wire.AppendFrame(nil, wire.Header{Kind: wire.KindRequest}, make([]byte, wire.MaxBody+1))
}

func TestTimeLeft(t *testing.T) {
	for _, test := range []struct {
		left time.Duration
		v    uint32
	}{
		{-time.Second, 1}, {0, 1}, {1, 1}, {100 * time.Microsecond, 1}, {100*time.Microsecond + 1, 2},
		{time.Second, 10_000}, {math.MaxUint32 * 100 * time.Microsecond, math.MaxUint32},
		{math.MaxUint32*100*time.Microsecond + 1, 0}, {math.MaxInt64, 0},
	} {
		if got := wire.PutTime(test.left); got != test.v {
			t.Errorf("%s is %d, want %d", test.left, got, test.v)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		left := time.Duration(rapid.Int64Range(1, int64(100*time.Hour)).Draw(t, "left"))
		if got := wire.Time(wire.PutTime(left)); got < left || got-left >= 100*time.Microsecond {
			t.Fatalf("%s came back as %s", left, got)
		}
	})
}

func metas() *rapid.Generator[[]wire.Meta] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) wire.Meta {
		return wire.Meta{
			Key:   rapid.StringMatching(`[a-z0-9.-]{1,64}`).Draw(t, "key"),
			Value: string(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value")),
		}
	}), 0, 8)
}

func TestMetadataComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := metas().Draw(t, "meta")
		message := rapid.SliceOf(rapid.Byte()).Draw(t, "message")
		body, err := wire.AppendMeta(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		if len(body)%8 != 0 || len(body) > wire.MaxMeta {
			t.Fatalf("%d bytes of metadata", len(body))
		}
		raw, rest, err := wire.SplitMeta(append(body, message...))
		if err != nil || !bytes.Equal(rest, message) {
			t.Fatalf("message %x came back as %x, %v", message, rest, err)
		}
		got, err := wire.ParseMeta(raw)
		if err != nil || len(got) != len(want) || len(want) > 0 && !reflect.DeepEqual(got, want) {
			t.Fatalf("%q came back as %q, %v", want, got, err)
		}
	})
}

func TestMetadataThatCanNotBeSent(t *testing.T) {
	long := strings.Repeat("x", 2<<10)
	for name, meta := range map[string][]wire.Meta{
		"empty key":      {{Key: ""}},
		"long key":       {{Key: strings.Repeat("k", 65)}},
		"upper case":     {{Key: "Traceparent"}},
		"other letters":  {{Key: "schlüssel"}},
		"long value":     {{Key: "k", Value: long + "x"}},
		"all together":   {{Key: "a", Value: long}, {Key: "b", Value: long}},
		"the last entry": {{Key: "a"}, {Key: "_"}},
	} {
		before := []byte("before")
		if b, err := wire.AppendMeta(before, meta); err == nil || string(b) != "before" {
			t.Errorf("%s: got %q, %v", name, b, err)
		}
	}
}

func TestMalformedMetadata(t *testing.T) {
	for name, body := range map[string]string{
		"nothing":            "",
		"three bytes":        "\x00\x00\x00",
		"no padding":         "\x00\x00\x00\x00",
		"longer than body":   "\x05\x00\x00\x00abcd",
		"4 GiB":              "\xff\xff\xff\xff....",
		"over the limit":     "\xfd\x0f\x00\x00" + strings.Repeat("\x00", 8<<10),
		"dirty padding":      "\x00\x00\x00\x00\x00\x00\x00\x01",
		"key of no length":   "\x03\x00\x00\x00\x00\x00\x00\x00",
		"key beyond the end": "\x04\x00\x00\x00\x09abc",
		"no value":           "\x02\x00\x00\x00\x01a\x00\x00",
		"half a length":      "\x03\x00\x00\x00\x01a\x00\x00",
		"value beyond":       "\x04\x00\x00\x00\x01a\x01\x00",
		"bad key":            "\x04\x00\x00\x00\x01A\x00\x00",
	} {
		raw, _, err := wire.SplitMeta([]byte(body))
		if err == nil {
			_, err = wire.ParseMeta(raw)
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestSettingsComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := func(name string) int { return rapid.IntRange(0, math.MaxInt32).Draw(t, name) }
		want := wire.Settings{Major: wire.Major, Calls: limit("calls"), Budget: limit("budget"), Message: limit("message"), Window: limit("window")}
		for range rapid.IntRange(0, 3).Draw(t, "services") {
			s := wire.Service{Name: rapid.String().Draw(t, "service")}
			for range rapid.IntRange(1, 4).Draw(t, "methods") {
				s.Methods = append(s.Methods, wire.Method{
					Name: rapid.String().Draw(t, "method"), Shape: rapid.Uint8Range(0, 3).Draw(t, "shape"),
					Idempotent: rapid.Bool().Draw(t, "idempotent"), In: rapid.String().Draw(t, "in"), Out: rapid.String().Draw(t, "out"),
				})
			}
			want.Services = append(want.Services, s)
		}
		b, err := wire.AppendSettings([]byte{1}, want)
		if err != nil || b[0] != 1 {
			t.Fatal(err)
		}
		got, err := wire.ParseSettings(b[1:])
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v came back as %+v, %v", want, got, err)
		}
	})
}

func TestMalformedSettings(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":          "",
		"not JSON":         "hello",
		"an array":         "[]",
		"null":             "null",
		"more than one":    `{"major":1}{"major":1}`,
		"no major":         `{}`,
		"another major":    `{"major":2}`,
		"negative calls":   `{"major":1,"calls":-1}`,
		"negative budget":  `{"major":1,"budget":-1}`,
		"negative message": `{"major":1,"message":-1}`,
		"negative window":  `{"major":1,"window":-1}`,
		"too large":        `{"major":1,"window":9223372036854775808}`,
		"a fraction":       `{"major":1,"window":0.5}`,
		"unknown shape":    `{"major":1,"services":[{"name":"S","methods":[{"name":"M","shape":4}]}]}`,
		"many services":    `{"major":1,"services":[` + strings.Repeat("{},", wire.MaxMethods) + `{}]}`,
		"many methods":     `{"major":1,"services":[{"methods":[` + strings.Repeat("{},", wire.MaxMethods) + `{}]}]}`,
		"too long":         `{"major":1,"x":"` + strings.Repeat("x", wire.MaxSettings) + `"}`,
	} {
		if s, err := wire.ParseSettings([]byte(text)); err == nil {
			t.Errorf("%s: parsed as %+v", name, s)
		} else if !strings.HasPrefix(err.Error(), "parse settings: ") {
			t.Errorf("%s: error %q", name, err)
		}
	}
	if s, err := wire.ParseSettings([]byte(`{"major":1,"calls":3,"tomorrow":{"more":[1]}}`)); err != nil || s.Calls != 3 {
		t.Errorf("unknown keys: got %+v, %v", s, err)
	}
	long := wire.Settings{Major: 1, Services: []wire.Service{{Name: strings.Repeat("s", wire.MaxSettings)}}}
	if _, err := wire.AppendSettings(nil, long); err == nil {
		t.Error("settings that are too long were encoded")
	}
}

var linkKey = bytes.Repeat([]byte{7}, 32)

func TestLinkHeadersComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringN(-1, -1, 128)
		want := wire.LinkHeader{ID: rapid.Uint64().Draw(t, "id"), Node: name.Draw(t, "node"), Cell: name.Draw(t, "cell"), Wanted: name.Draw(t, "wanted")}
		if rapid.Bool().Draw(t, "proved") {
			want.Proof = rapid.SliceOfN(rapid.Byte(), wire.ProofLen, wire.ProofLen).Draw(t, "proof")
		}
		copy(want.Binding[:], rapid.SliceOfN(rapid.Byte(), 0, 32).Draw(t, "binding"))
		b, err := wire.AppendLinkHeader([]byte{9}, want, linkKey)
		if err != nil || b[0] != 9 {
			t.Fatal(err)
		}
		b = b[1:]
		n, err := wire.LinkHeaderLen([2]byte(b))
		if err != nil || n != len(b)-2 {
			t.Fatalf("length %d of %d bytes, %v", n, len(b), err)
		}
		if got, err := wire.ParseLinkHeader(b, want.Binding, linkKey); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v came back as %+v, %v", want, got, err)
		}
		flip := bytes.Clone(b)
		flip[rapid.IntRange(0, len(b)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := wire.ParseLinkHeader(flip, want.Binding, linkKey); err == nil {
			t.Fatal("a changed header was accepted")
		}
		other := want.Binding
		other[31] ^= 1
		if _, err := wire.ParseLinkHeader(b, other, linkKey); err == nil {
			t.Fatal("another channel was accepted")
		}
		if _, err := wire.ParseLinkHeader(b, want.Binding, linkKey[1:]); err == nil {
			t.Fatal("another key was accepted")
		}
	})
}

func TestFlawsOfLinkHeadersLookAlike(t *testing.T) {
	good, err := wire.AppendLinkHeader(nil, wire.LinkHeader{ID: 1, Node: "n", Cell: "c", Wanted: "w"}, linkKey)
	if err != nil {
		t.Fatal(err)
	}
	_, want := wire.ParseLinkHeader(good, [32]byte{1}, linkKey)
	for name, b := range map[string][]byte{
		"empty": nil, "short": good[:40], "cut": good[:len(good)-1], "longer": append(bytes.Clone(good), 0),
		"too long": make([]byte, wire.MaxLinkHeader+1), "zeros": make([]byte, 100),
	} {
		if _, err := wire.ParseLinkHeader(b, [32]byte{}, linkKey); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	if _, err := wire.AppendLinkHeader(nil, wire.LinkHeader{Node: strings.Repeat("n", 129)}, linkKey); err == nil {
		t.Error("a name of 129 bytes was encoded")
	}
	if _, err := wire.AppendLinkHeader(nil, wire.LinkHeader{Proof: make([]byte, 63)}, linkKey); err == nil {
		t.Error("a proof of 63 bytes was encoded")
	}
	for _, first := range [][2]byte{{0, 0}, {44, 0}, {0xff, 1}, {0xff, 0xff}} {
		if n, err := wire.LinkHeaderLen(first); err == nil {
			t.Errorf("length %x is %d", first, n)
		}
	}
}

func TestRefusalsAreShort(t *testing.T) {
	b := wire.AppendRefusal([]byte{1}, 4, strings.Repeat("x", 300))
	if len(b) != 1+2+200 || b[1] != 4 || b[2] != 200 {
		t.Errorf("got %d bytes: %x", len(b), b[:3])
	}
}

func TestKindsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for k := range wire.KindGoAway {
		name := (k + 1).String()
		if seen[name] || strings.Contains(name, "(") {
			t.Errorf("kind %d is called %q", k+1, name)
		}
		seen[name] = true
	}
	if got := (wire.KindGoAway + 1).String(); got != "kind(12)" {
		t.Errorf("an unknown kind is called %q", got)
	}
}
