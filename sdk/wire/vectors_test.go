package wire_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/sdk/wire"
)

// A vector is a line of testdata/vectors.txt: kind, name, meaning and bytes.
type vector struct {
	kind, name, text string
	bytes            []byte
}

func vectors(t testing.TB) []vector {
	t.Helper()
	file, err := os.ReadFile("testdata/vectors.txt")
	if err != nil {
		t.Fatal(err)
	}
	var list []vector
	for line := range strings.Lines(string(file)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Split(line, " | ")
		if len(f) != 4 {
			t.Fatalf("vector %q: want four fields", line)
		}
		b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(f[3]), " ", ""))
		if err != nil {
			t.Fatalf("vector %q: %v", line, err)
		}
		list = append(list, vector{strings.TrimSpace(f[0]), strings.TrimSpace(f[1]), strings.TrimSpace(f[2]), b})
	}
	return list
}

var flagNames = []struct {
	flag wire.Flags
	name string
}{{wire.FlagMore, "more"}, {wire.FlagMeta, "meta"}, {wire.FlagJSON, "json"}, {wire.FlagEnd, "end"}, {wire.FlagNone, "none"}}

func flagText(f wire.Flags) string {
	var names []string
	for _, n := range flagNames {
		if f&n.flag != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, "+")
}

// A codec turns bytes into the meaning of a vector, and back.
type codec struct {
	decode func(b []byte) (string, error)
	encode func(text string) ([]byte, error)
}

func codecs() map[string]codec {
	return map[string]codec{
		"frame": {decodeFrame, encodeFrame}, "meta": {decodeMeta, encodeMeta},
		"settings": {decodeSettings, encodeSettings}, "link": {decodeLink, encodeLink},
	}
}

func decodeFrame(b []byte) (string, error) {
	h, body, n, err := wire.ParseFrame(b)
	if err != nil {
		return "", err
	}
	if n != len(b) {
		return "", fmt.Errorf("%d bytes are left", len(b)-n)
	}
	return fmt.Sprintf("%s flags=%s aux=%d call=%d value=%d body=%x", h.Kind, flagText(h.Flags), h.Aux, h.Call, h.Value, body), nil
}

func encodeFrame(text string) ([]byte, error) {
	var h wire.Header
	f := strings.Fields(text)
	if len(f) != 6 {
		return nil, fmt.Errorf("frame %q: want six words", text)
	}
	for k := wire.Kind(1); k <= wire.KindGoAway; k++ {
		if k.String() == f[0] {
			h.Kind = k
		}
	}
	for _, n := range flagNames {
		if strings.Contains(f[1], n.name) {
			h.Flags |= n.flag
		}
	}
	if _, err := fmt.Sscanf(strings.Join(f[2:5], " "), "aux=%d call=%d value=%d", &h.Aux, &h.Call, &h.Value); err != nil {
		return nil, err
	}
	body, err := hex.DecodeString(strings.TrimPrefix(f[5], "body="))
	return wire.AppendFrame(nil, h, body), err
}

func decodeMeta(b []byte) (string, error) {
	raw, message, err := wire.SplitMeta(b)
	if err != nil {
		return "", err
	}
	meta, err := wire.ParseMeta(raw)
	if err != nil {
		return "", err
	}
	var words []string
	for _, m := range meta {
		words = append(words, m.Key+"="+strconv.Quote(m.Value))
	}
	return strings.Join(append(words, fmt.Sprintf("message=%x", message)), " "), nil
}

func encodeMeta(text string) ([]byte, error) {
	words := strings.Fields(text)
	last := len(words) - 1
	var meta []wire.Meta
	for _, w := range words[:last] {
		key, quoted, _ := strings.Cut(w, "=")
		value, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, err
		}
		meta = append(meta, wire.Meta{Key: key, Value: value})
	}
	b, err := wire.AppendMeta(nil, meta)
	if err != nil {
		return nil, err
	}
	message, err := hex.DecodeString(strings.TrimPrefix(words[last], "message="))
	return append(b, message...), err
}

func decodeSettings(b []byte) (string, error) {
	s, err := wire.ParseSettings(b)
	if err != nil {
		return "", err
	}
	out, err := wire.AppendSettings(nil, s)
	return string(out), err
}

func encodeSettings(text string) ([]byte, error) { return []byte(text), nil }

// vectorKey seals the link headers of the vectors: the bytes 0 to 31.
func vectorKey() []byte {
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(i)
	}
	return key
}

func decodeLink(b []byte) (string, error) {
	for _, binding := range [][32]byte{{}, {0xcb, 1}} {
		if h, err := wire.ParseLinkHeader(b, binding, vectorKey()); err == nil {
			return fmt.Sprintf("id=%d node=%q cell=%q wanted=%q proof=%x binding=%x", h.ID, h.Node, h.Cell, h.Wanted, h.Proof, bytes.TrimRight(h.Binding[:], "\x00")), nil
		}
	}
	_, err := wire.ParseLinkHeader(b, [32]byte{}, vectorKey())
	return "", err
}

func encodeLink(text string) ([]byte, error) {
	var h wire.LinkHeader
	var binding []byte
	text, hexBinding, _ := strings.Cut(text, " binding=")
	text, hexProof, _ := strings.Cut(text, " proof=")
	if _, err := fmt.Sscanf(text, "id=%d node=%q cell=%q wanted=%q", &h.ID, &h.Node, &h.Cell, &h.Wanted); err != nil {
		return nil, err
	}
	binding, err := hex.DecodeString(hexBinding)
	if err != nil {
		return nil, err
	}
	copy(h.Binding[:], binding)
	if h.Proof, err = hex.DecodeString(hexProof); err != nil {
		return nil, err
	}
	return wire.AppendLinkHeader(nil, h, vectorKey())
}

func TestGoldenVectors(t *testing.T) {
	all := codecs()
	seen, kinds := map[string]int{}, map[string]bool{}
	for _, v := range vectors(t) {
		if v.kind == "frame" {
			kinds[strings.Fields(v.text)[0]] = true
		}
		kind, bad := strings.CutPrefix(v.kind, "bad-")
		c, ok := all[kind]
		if !ok {
			t.Errorf("%s: unknown kind %q", v.name, v.kind)
			continue
		}
		seen[v.kind]++
		text, err := c.decode(v.bytes)
		switch {
		case bad && (err == nil || err.Error() != v.text):
			t.Errorf("%s %s: parsed as %q, %v, want the error %q", v.kind, v.name, text, err, v.text)
		case bad:
		case err != nil || text != v.text:
			t.Errorf("%s %s: parsed as %q, %v, want %q", v.kind, v.name, text, err, v.text)
		default:
			if b, err := c.encode(v.text); err != nil || !bytes.Equal(b, v.bytes) {
				t.Errorf("%s %s: encoded as %x, %v, want %x", v.kind, v.name, b, err, v.bytes)
			}
		}
	}
	for kind := range all {
		if seen[kind] == 0 || seen["bad-"+kind] == 0 {
			t.Errorf("%d good and %d bad vectors of kind %s", seen[kind], seen["bad-"+kind], kind)
		}
	}
	for k := range allowed {
		if !kinds[k.String()] {
			t.Errorf("no vector of a %s frame", k)
		}
	}
}
