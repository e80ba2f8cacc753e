package cell

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAWriteThatStallsGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		w := &writer{conn: ours}
		begun := time.Now()
		err := w.push(make([]byte, 100))
		if err == nil || !strings.Contains(err.Error(), "does not read") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begun); took != stallTime {
			t.Errorf("it took %s", took)
		}
	})
}

func TestASlowReaderIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		w := &writer{conn: ours}
		want := bytes.Repeat([]byte("slow"), 100)
		done := make(chan []byte)
		go func() {
			var got []byte
			b := make([]byte, 9)
			for {
				n, err := theirs.Read(b)
				got = append(got, b[:n]...)
				if err == io.EOF {
					done <- got
					return
				}
				time.Sleep(stallTime - time.Second)
			}
		}()
		if err := w.push(want); err != nil {
			t.Error(err)
		}
		ours.Close()
		if got := <-done; !bytes.Equal(got, want) {
			t.Errorf("%d of %d bytes came", len(got), len(want))
		}
	})
}
