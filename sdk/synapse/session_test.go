package synapse_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/cellkernel/cellkernel/sdk/synapse"
)

// sessions returns both ends of a finished handshake.
func sessions(tb testing.TB) (a, b *synapse.Session) {
	p := newPair(tb)
	p.run(tb.Context())
	p.wantBoth(tb)
	return p.s[0], p.s[1]
}

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = r.Read(b)
	return b
}

func TestSealAndOpenLimits(t *testing.T) {
	for _, n := range []int{0, 1, synapse.MaxPlain - 1, synapse.MaxPlain, synapse.MaxPlain + 1, 3*synapse.MaxPlain + 7} {
		a, b := sessions(t)
		want := noise(n)
		sealed := a.Seal([]byte("before"), want)
		if len(sealed) != len("before")+synapse.SealedLen(n) {
			t.Errorf("%d bytes: sealed to %d, SealedLen says %d", n, len(sealed)-6, synapse.SealedLen(n))
		}
		if !bytes.HasPrefix(sealed, []byte("before")) {
			t.Errorf("%d bytes: what was before is gone", n)
		}
		got, used, err := b.Open([]byte("kept"), sealed[6:])
		if err != nil || used != len(sealed)-6 || !bytes.Equal(got, append([]byte("kept"), want...)) {
			t.Errorf("%d bytes: %d used, %v", n, used, err)
		}
	}
}

// Whatever is written, and however it is cut on the way, arrives as it was;
// at every point before the end the reader knows that more must come.
func TestStreamArrives(t *testing.T) {
	a, b := sessions(t) // runs follow each other in one session
	rapid.Check(t, func(t *rapid.T) {
		var want, sealed []byte
		for range rapid.IntRange(0, 5).Draw(t, "writes") {
			p := noise(rapid.IntRange(0, 70_000).Draw(t, "size"))
			want, sealed = append(want, p...), a.Seal(sealed, p)
		}
		var got, buf []byte
		for len(sealed) > 0 {
			n := rapid.IntRange(1, len(sealed)).Draw(t, "arrives")
			buf, sealed = append(buf, sealed[:n]...), sealed[n:]
			var used int
			var err error
			if got, used, err = b.Open(got, buf); err != nil {
				t.Fatal(err)
			}
			buf = buf[used:]
		}
		if len(buf) != 0 || !bytes.Equal(got, want) {
			t.Fatalf("got %d bytes, want %d; %d not used", len(got), len(want), len(buf))
		}
	})
}

func TestReaderArrives(t *testing.T) {
	outer := t
	rapid.Check(t, func(t *rapid.T) {
		a, b := sessions(outer)
		var want, sealed []byte
		for range rapid.IntRange(0, 80).Draw(t, "writes") {
			size := rapid.SampledFrom([]int{1, 16, 300, 4096, 70_000}).Draw(t, "most")
			p := noise(rapid.IntRange(1, size).Draw(t, "size"))
			want, sealed = append(want, p...), a.Seal(sealed, p)
		}
		sealed = a.SealEnd(sealed)
		r := rapid.SampledFrom([]func(io.Reader) io.Reader{
			func(r io.Reader) io.Reader { return r }, iotest.HalfReader, iotest.DataErrReader, iotest.OneByteReader,
		}).Draw(t, "cut")(bytes.NewReader(sealed))
		var got []byte
		p := make([]byte, rapid.IntRange(1, 100_000).Draw(t, "room"))
		rd := synapse.NewReader(r, b)
		for {
			n, err := rd.Read(p)
			got = append(got, p[:n]...)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("got %d bytes, want %d", len(got), len(want))
		}
		if _, err := rd.Read(p); err != io.EOF {
			t.Fatalf("after the end: got %v", err)
		}
	})
}

// damage is what can be done to a stream of four messages and its end.
var damage = map[string]func(m [][]byte) [][]byte{
	"dropped":           func(m [][]byte) [][]byte { return append(m[:1], m[2:]...) },
	"repeated":          func(m [][]byte) [][]byte { return append([][]byte{m[0], m[0]}, m[1:]...) },
	"swapped":           func(m [][]byte) [][]byte { m[1], m[2] = m[2], m[1]; return m },
	"first is late":     func(m [][]byte) [][]byte { return append(m[1:4], m[0]) },
	"too short to be":   func(m [][]byte) [][]byte { m[1] = []byte{0, 15, 1}; return m },
	"without length":    func(m [][]byte) [][]byte { m[1] = []byte{0, 0}; return m },
	"tag cut":           func(m [][]byte) [][]byte { m[1] = prefixed(m[1][2 : len(m[1])-1]); return m },
	"longer":            func(m [][]byte) [][]byte { m[1] = prefixed(append(m[1][2:], 0)); return m },
	"end repeated":      func(m [][]byte) [][]byte { return append(m, m[4]) },
	"goes on after end": func(m [][]byte) [][]byte { return append(m, []byte{0}) },
	"end in the middle": func(m [][]byte) [][]byte { return [][]byte{m[0], m[4], m[1], m[2], m[3]} },
}

func messages(a *synapse.Session) (list [][]byte) {
	for i := range 4 {
		list = append(list, a.Seal(nil, noise(100+i)))
	}
	return append(list, a.SealEnd(nil))
}

func TestDamageIsSeen(t *testing.T) {
	for name, do := range damage {
		t.Run(name, func(t *testing.T) {
			a, b := sessions(t)
			sealed := bytes.Join(do(messages(a)), nil)
			got, used, err := b.Open(nil, sealed)
			if err == io.EOF {
				_, _, err = b.Open(nil, sealed[used:])
			}
			if err != synapse.ErrStream {
				t.Fatalf("got %v, want %v", err, synapse.ErrStream)
			}
			if want := slicesConcat(noise(100), noise(101), noise(102), noise(103)); !bytes.HasPrefix(want, got) {
				t.Error("what came with the error is not what was sent")
			}
			if _, _, err := b.Open(nil, a0Message(t)); err != synapse.ErrStream {
				t.Errorf("it did not stay: %v", err)
			}
		})
	}
}

func slicesConcat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func a0Message(t *testing.T) []byte {
	a, _ := sessions(t)
	return a.Seal(nil, []byte("another session"))
}

func TestEveryByteOfAMessageCounts(t *testing.T) {
	for at := range synapse.SealedLen(40) {
		a, b := sessions(t)
		sealed := a.Seal(nil, noise(40))
		sealed[at] ^= 1 << rand.IntN(8)
		sealed = a.SealEnd(sealed)
		r := synapse.NewReader(bytes.NewReader(sealed), b)
		if got, err := io.ReadAll(r); len(got) != 0 || err != synapse.ErrStream && err != io.ErrUnexpectedEOF {
			t.Fatalf("byte %d: got %d bytes and %v", at, len(got), err)
		}
	}
}

func TestTruncationIsSeen(t *testing.T) {
	size := len(bytes.Join(messages(first(sessions(t))), nil))
	for cut := range size {
		a, b := sessions(t)
		sealed := bytes.Join(messages(a), nil)[:cut]
		if _, err := io.ReadAll(synapse.NewReader(bytes.NewReader(sealed), b)); err != io.ErrUnexpectedEOF {
			t.Fatalf("%d of %d bytes: got %v, want %v", cut, size, err, io.ErrUnexpectedEOF)
		}
	}
}

func first(a, _ *synapse.Session) *synapse.Session { return a }

// Directions have keys of their own: what one side sent is nothing to itself.
func TestReflectionIsSeen(t *testing.T) {
	a, b := sessions(t)
	if _, _, err := a.Open(nil, a.Seal(nil, []byte("x"))); err != synapse.ErrStream {
		t.Errorf("initiator: got %v", err)
	}
	if _, _, err := b.Open(nil, b.Seal(nil, []byte("x"))); err != synapse.ErrStream {
		t.Errorf("responder: got %v", err)
	}
}

func TestSealAfterEndPanics(t *testing.T) {
	a, _ := sessions(t)
	a.SealEnd(nil)
	defer func() {
		if recover() == nil {
			t.Error("sealed after the end")
		}
	}()
	a.Seal(nil, []byte("x"))
}

func TestNothingIsAllocated(t *testing.T) {
	a, b := sessions(t)
	for _, size := range []int{64, 1 << 10, 32 << 10, 100_000} {
		plain, sealed, got := noise(size), make([]byte, 0, synapse.SealedLen(size)), make([]byte, 0, size)
		var err error
		n := testing.AllocsPerRun(50, func() {
			sealed = a.Seal(sealed[:0], plain)
			if got, _, err = b.Open(got[:0], sealed); err != nil {
				t.Fatal(err)
			}
		})
		if n != 0 || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: %v allocations", size, n)
		}
	}
	loop := &ring{}
	r, p := synapse.NewReader(loop, b), make([]byte, 512)
	if n := testing.AllocsPerRun(200, func() {
		loop.b = a.Seal(loop.b[:0], p[:64])
		if _, err := io.ReadFull(r, p[:64]); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("reader: %v allocations", n)
	}
}

// A ring gives what was put there last, once.
type ring struct{ b []byte }

func (r *ring) Read(p []byte) (int, error) {
	n := copy(p, r.b)
	r.b = append(r.b[:0], r.b[n:]...)
	return n, nil
}

// conns returns two connections that speak to each other, encrypted.
func conns(t *testing.T) (a, b net.Conn) {
	sa, sb := sessions(t)
	ca, cb := net.Pipe()
	return synapse.NewConn(ca, sa), synapse.NewConn(cb, sb)
}

func TestConn(t *testing.T) {
	a, b := conns(t)
	want := noise(300_000)
	var wg sync.WaitGroup
	for _, c := range []net.Conn{a, b} {
		wg.Go(func() {
			if n, err := c.Write(want); n != len(want) || err != nil {
				t.Errorf("wrote %d: %v", n, err)
			}
		})
		wg.Go(func() {
			got := make([]byte, len(want))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("read: %v", err)
			}
		})
	}
	wg.Wait()
	wg.Go(func() { a.Close() })
	if _, err := b.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("end: got %v, want %v", err, io.EOF)
	}
	b.Close()
	wg.Wait()
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after close: got %v", err)
	}
}

func TestConnCutIsNoEnd(t *testing.T) {
	sa, sb := sessions(t)
	ca, cb := net.Pipe()
	go func() {
		_, _ = ca.Write(sa.Seal(nil, []byte("half of it")))
		ca.Close()
	}()
	c := synapse.NewConn(cb, sb)
	defer c.Close()
	if got, err := io.ReadAll(c); string(got) != "half of it" || err != io.ErrUnexpectedEOF {
		t.Errorf("got %q, %v", got, err)
	}
}

// Nobody reads: a Write that fails breaks the stream for good, and Close does
// not wait for it, nor long for its own end.
func TestConnWhenNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := conns(t)
		if err := a.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := a.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		}
		start := time.Now()
		a.Close()
		if d := time.Since(start); d != 0 {
			t.Errorf("closing a broken stream took %s", d)
		}
		c, _ := conns(t)
		done := make(chan error)
		go func() {
			_, err := c.Write([]byte("x"))
			done <- err
		}()
		synctest.Wait()
		c.Close()
		if err := <-done; err == nil || strings.Contains(err.Error(), "deadline") {
			t.Errorf("blocked write: got %v", err)
		}
		d, _ := conns(t)
		start = time.Now()
		d.Close()
		if took := time.Since(start); took > time.Second {
			t.Errorf("close took %s", took)
		}
	})
}
