package cell_test

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk/wire"
)

// script turns fuzz input into frames: five bytes say kind, flags, call,
// method and length, and the body follows. Behind a kind of 255 it goes out as
// it is, which ends most links.
func script(in []byte) (out []byte, requests map[uint32]int, raw bool) {
	requests = map[uint32]int{}
	for len(in) >= 5 {
		size := min(int(in[4]), len(in)-5)
		body := in[5 : 5+size]
		if in[0] == 0xff {
			out, raw = append(out, body...), true
		} else {
			h := wire.Header{Kind: wire.Kind(in[0]%12 + 1), Flags: wire.Flags(in[1] & 31), Call: uint32(in[2] % 4), Aux: uint16(in[3] % 6), Value: binary.LittleEndian.Uint32(in[1:])}
			if h.Kind == wire.KindRequest {
				requests[h.Call]++
			}
			out = wire.AppendFrame(out, h, body)
		}
		in = in[5+size:]
	}
	return out, requests, raw
}

// FuzzServedLink says anything on a link. The cell survives, answers no
// request twice, says nothing malformed, and serves others as before.
func FuzzServedLink(f *testing.F) {
	k := puppet(f)
	k.serve(echo)
	bystander := k.open()
	request, message := byte(wire.KindRequest-1), byte(wire.KindMessage-1)
	fragment, cancel := byte(wire.KindFragment-1), byte(wire.KindCancel-1)
	none, more, end := byte(wire.FlagNone), byte(wire.FlagMore), byte(wire.FlagEnd)
	f.Add([]byte{request, 0, 1, mEcho, 2, 'h', 'i'})
	f.Add([]byte{request, more, 1, mEcho, 1, 'h', fragment, 0, 1, 0, 1, 'i', request, 0, 2, mEcho, 0})
	f.Add([]byte{request, none, 1, mChat, 0, message, 0, 1, 0, 3, 'a', 'b', 'c', message, end | none, 1, 0, 0})
	f.Add([]byte{request, none, 1, mSum, 0, message, more, 1, 0, 1, 'a', fragment, 0, 1, 0, 1, 'b', cancel, 0, 1, 0, 0})
	f.Add([]byte{request, 0, 3, mCount, 1, 9, byte(wire.KindCredit - 1), 0xff, 3, 0, 0, 0xff, 0, 0, 0, 4, 1, 2, 3, 4})
	f.Add([]byte{request, byte(wire.FlagMeta), 0, 0, 8, 4, 0, 0, 0, 1, 'a', 0, 0, byte(wire.KindPing - 1), 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		p := k.openFor(t)
		out, requests, raw := script(in)
		done := make(chan map[uint32]int)
		go func() { done <- p.finals() }()
		_ = p.write(out)
		_ = p.conn.(interface{ CloseWrite() error }).CloseWrite()
		ended := <-done
		for id, n := range ended {
			if n > requests[id] && !raw {
				t.Errorf("call %d was requested %d times and ended %d times", id, requests[id], n)
			}
		}
		p.conn.Close()
		bystander.t = t
		bystander.echoes()
	})
}

// finals counts the frames that end calls, until the link ends.
func (p *peer) finals() map[uint32]int {
	ended := map[uint32]int{}
	for {
		h, _, err := p.next()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			p.t.Errorf("the link goes on for %s", patience)
		}
		if err != nil {
			return ended
		}
		if h.Kind == wire.KindReply && h.Flags&wire.FlagMore == 0 || h.Kind == wire.KindError {
			ended[h.Call]++
		}
		p.conn.SetReadDeadline(time.Time{})
	}
}
