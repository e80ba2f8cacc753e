package plugin

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func FuzzPluginOutput(f *testing.F) {
	f.Add([]byte(`{"level":"ERROR","msg":"x"}` + "\n" + `{"@message":5}` + "\n1|1|unix|/a|grpc|\n"))
	f.Add([]byte("a\nb\n\n{\"level\":5}\n\x00\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var got int
		s := sink(func(_ slog.Level, line []byte) {
			if len(line) > maxLine || bytes.IndexByte(line, '\n') >= 0 {
				t.Fatalf("line of %d bytes", len(line))
			}
			got += len(line)
		})
		var last tail
		readLines(bytes.NewReader(b), func(line []byte) {
			isHandshake(line)
			last.add(line)
			s.give(line)
		})
		if want := len(b) - bytes.Count(b, []byte("\n")); got != want {
			t.Fatalf("%d bytes in lines, want %d", got, want)
		}
	})
}

func FuzzSideMessage(f *testing.F) {
	f.Add(formatMessage(message{Type: typeFD, Token: 7}))
	f.Add(formatMessage(message{Type: typeHello, hello: hello{Version: 1, Secret: make([]byte, 32)}}))
	f.Add([]byte(`{"type":"call","id":1,"method":"certify","body":"AAAA"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err != nil {
			return
		}
		again, err := parseMessage(formatMessage(m))
		if err != nil || again.Type != m.Type || again.ID != m.ID || again.Token != m.Token || !bytes.Equal(again.Body, m.Body) {
			t.Fatalf("%+v became %+v, %v", m, again, err)
		}
	})
}

func TestClip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, limit := string(rapid.SliceOf(rapid.Byte()).Draw(t, "s")), rapid.IntRange(0, 40).Draw(t, "limit")
		got := clip(s, limit)
		if len(got) > limit || !utf8.ValidString(got) || strings.ContainsAny(got, "\n\x1b\x00") {
			t.Fatalf("clip(%q, %d) = %q", s, limit, got)
		}
	})
	if got := clip("täg", 2); got != "t" {
		t.Errorf("got %q", got)
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"kitten", "sitting", 3}, {"servers", "server", 1}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
