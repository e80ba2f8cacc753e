package wire_test

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/cellkernel/cellkernel/sdk/wire"
)

// seeds adds the encodings of the golden vectors of a kind.
func seeds(f *testing.F, kind string) {
	for _, v := range vectors(f) {
		if v.kind == kind || v.kind == "bad-"+kind {
			f.Add(v.bytes)
		}
	}
}

func FuzzParseFrame(f *testing.F) {
	seeds(f, "frame")
	f.Fuzz(func(t *testing.T, b []byte) {
		h, body, n, err := wire.ParseFrame(b)
		if err != nil {
			return
		}
		if n%8 != 0 || n != h.Len() || len(body) != int(h.Size) || len(body) > wire.MaxBody || !wellFormed(h) {
			t.Fatalf("%x parsed as %+v, %d", b[:n], h, n)
		}
		if again := wire.AppendFrame(nil, h, body); !bytes.Equal(again, b[:n]) {
			t.Fatalf("%x came back as %x", b[:n], again)
		}
	})
}

func FuzzSplitMeta(f *testing.F) {
	seeds(f, "meta")
	f.Fuzz(func(t *testing.T, b []byte) {
		raw, message, err := wire.SplitMeta(b)
		if err != nil {
			return
		}
		if len(raw) > wire.MaxMeta || (len(b)-len(message))%8 != 0 {
			t.Fatalf("%d bytes of metadata, message at %d", len(raw), len(b)-len(message))
		}
		meta, err := wire.ParseMeta(raw)
		if err != nil {
			return
		}
		again, err := wire.AppendMeta(nil, meta)
		if err != nil || !bytes.Equal(append(again, message...), b) {
			t.Fatalf("%x came back as %x, %v", b, again, err)
		}
	})
}

func FuzzParseMeta(f *testing.F) {
	seeds(f, "meta")
	f.Fuzz(func(t *testing.T, b []byte) {
		meta, err := wire.ParseMeta(b)
		if err != nil || len(b) > wire.MaxMeta-8 {
			return
		}
		again, err := wire.AppendMeta(nil, meta)
		if err != nil || !bytes.Equal(again[4:4+len(b)], b) {
			t.Fatalf("%x came back as %x, %v", b, again, err)
		}
	})
}

func FuzzParseSettings(f *testing.F) {
	seeds(f, "settings")
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := wire.ParseSettings(b)
		if err != nil {
			return
		}
		again, err := wire.AppendSettings(nil, s)
		if err != nil {
			return // what is escaped grows
		}
		back, err := wire.ParseSettings(again)
		if err != nil || len(s.Services) > 0 && !reflect.DeepEqual(back, s) {
			t.Fatalf("%s came back as %s, %v", b, again, err)
		}
	})
}

func FuzzParseLinkHeader(f *testing.F) {
	seeds(f, "link")
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 2 {
			if n, err := wire.LinkHeaderLen([2]byte(b)); err == nil && (n < 45 || n+2 > wire.MaxLinkHeader) {
				t.Fatalf("length %d", n)
			}
		}
		sealed := wire.SealForTest(b, linkKey)
		h, err := wire.ParseLinkHeader(sealed, [32]byte{}, linkKey)
		if err != nil {
			return
		}
		again, err := wire.AppendLinkHeader(nil, h, linkKey)
		if err != nil || !bytes.Equal(again, sealed) {
			t.Fatalf("%x came back as %x, %v", sealed, again, err)
		}
	})
}
