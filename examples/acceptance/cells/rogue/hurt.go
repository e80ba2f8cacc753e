package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

const (
	rounds    = 100                   // links that an attack breaks, one after the other
	roundTime = 40 * time.Millisecond // from one to the next
	drippers  = 20                    // links on which bytes come one a second, at once
	method    = 0                     // Read, see package probe
)

// An Injury is what an attack did. The other side must have ended each link
// that was wrong.
type Injury struct {
	Links int `json:"links"`
	Ended int `json:"ended"`
}

// hurt attacks in the given way and prints the injury.
func (r *rogue) hurt(name sdk.CellName, endpoint, way string) error {
	var hurt Injury
	var err error
	switch way {
	case "length":
		hurt, err = r.repeat(name, endpoint, func(c net.Conn) error { return write(c, huge()) })
	case "garbage":
		hurt, err = r.repeat(name, endpoint, func(c net.Conn) error { return write(c, []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")) })
	case "early":
		hurt, err = r.repeat(name, endpoint, func(c net.Conn) error { return write(c, request(0)) })
	case "split":
		hurt, err = r.repeat(name, endpoint, split)
	case "slow":
		hurt, err = r.slow(name, endpoint)
	default:
		err = fmt.Errorf("no way to hurt is called %q", way)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", way, err)
	}
	return json.NewEncoder(os.Stdout).Encode(hurt)
}

// repeat opens links, one after the other, and attacks on each of them.
func (r *rogue) repeat(name sdk.CellName, endpoint string, attack func(net.Conn) error) (Injury, error) {
	var hurt Injury
	pace := time.NewTicker(roundTime)
	defer pace.Stop()
	for range rounds {
		c, err := r.dial(name, endpoint)
		if err != nil {
			return hurt, err
		}
		if err := attack(c); err != nil {
			return hurt, errors.Join(err, c.Close())
		}
		hurt.Links++
		if endedBy(c) {
			hurt.Ended++
		}
		c.Close()
		<-pace.C
	}
	return hurt, nil
}

// slow sends correct settings on several links, one byte a second, until all
// are ended.
func (r *rogue) slow(name sdk.CellName, endpoint string) (Injury, error) {
	hurt := Injury{Links: drippers}
	hello, err := settings()
	if err != nil {
		return hurt, err
	}
	var links sync.WaitGroup
	defer links.Wait()
	ended := make(chan struct{}, drippers)
	for range drippers {
		c, err := r.dial(name, endpoint)
		if err != nil {
			return hurt, err
		}
		links.Go(func() {
			defer c.Close()
			if drip(c, hello) {
				ended <- struct{}{}
			}
		})
	}
	links.Wait()
	hurt.Ended = len(ended)
	return hurt, nil
}

// drip sends one byte a second, and reports whether the other side ends the
// link before it has all.
func drip(c net.Conn, b []byte) bool {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for _, x := range b[:min(len(b), int(patience.Seconds()))] {
		if _, err := c.Write([]byte{x}); err != nil {
			return true
		}
		<-second.C
	}
	return false
}

func write(c net.Conn, b []byte) error {
	_, err := c.Write(b)
	return err
}

// split cuts correct frames at every byte, which must be understood, and then
// begins a request that another frame cuts, which must not.
func split(c net.Conn) error {
	hello, err := settings()
	if err != nil {
		return err
	}
	for _, x := range slices.Concat(hello, request(7)) {
		if err := write(c, []byte{x}); err != nil {
			return err
		}
	}
	if err := answered(c, 7); err != nil {
		return err
	}
	part := wire.AppendFrame(nil, wire.Header{Kind: wire.KindRequest, Flags: wire.FlagMore, Call: 8, Aux: method}, []byte("half"))
	return write(c, wire.AppendFrame(part, wire.Header{Kind: wire.KindMessage, Call: 8}, []byte("another")))
}

// answered reads until the call has ended.
func answered(c net.Conn, call uint32) error {
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	for {
		b := make([]byte, wire.HeaderSize)
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		h, err := wire.ParseHeader(b)
		if err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, c, int64(h.Len()-wire.HeaderSize)); err != nil {
			return err
		}
		if h.Call == call && (h.Kind == wire.KindReply || h.Kind == wire.KindError) {
			return nil
		}
	}
}

// settings is a correct frame of settings.
func settings() ([]byte, error) {
	b, err := wire.AppendSettings(nil, wire.Settings{Major: wire.Major, Calls: 16, Budget: 1 << 20, Message: 1 << 20, Window: 1 << 20})
	if err != nil {
		return nil, err
	}
	return wire.AppendFrame(nil, wire.Header{Kind: wire.KindSettings, Flags: wire.FlagJSON}, b), nil
}

// huge is a frame whose length is all ones.
func huge() []byte {
	b := make([]byte, wire.HeaderSize)
	wire.PutHeader(b, wire.Header{Kind: wire.KindRequest, Size: 0xffff_ffff})
	return b
}

// request is a correct request for nothing.
func request(call uint32) []byte {
	return wire.AppendFrame(nil, wire.Header{Kind: wire.KindRequest, Flags: wire.FlagNone, Call: call, Aux: method}, nil)
}

// endedBy reports whether the other side ends the link.
func endedBy(c net.Conn) bool {
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return false
	}
	_, err := io.Copy(io.Discard, c)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}
