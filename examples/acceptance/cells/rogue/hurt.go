package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

const drips = 5 // bytes that come one a second

// hurt opens a link for each way to break the format. Those that are wrong
// must be ended by the other side; the slow one may stay.
func (r *rogue) hurt(name sdk.CellName, endpoint string) error {
	ended := map[string]bool{}
	for _, a := range []struct {
		name  string
		bytes []byte
	}{
		{"length of 4 GiB", huge()},
		{"garbage", []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")},
		{"request before settings", request()},
	} {
		c, err := r.dial(name, endpoint)
		if err != nil {
			return err
		}
		if _, err := c.Write(a.bytes); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		ended[a.name] = endedBy(c)
		c.Close()
	}
	c, err := r.dial(name, endpoint)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := drip(c); err != nil {
		return fmt.Errorf("one byte a second: %w", err)
	}
	return json.NewEncoder(os.Stdout).Encode(ended)
}

// huge is a frame whose length is all ones.
func huge() []byte {
	b := make([]byte, wire.HeaderSize)
	wire.PutHeader(b, wire.Header{Kind: wire.KindRequest, Size: 0xffff_ffff})
	return b
}

func request() []byte {
	return wire.AppendFrame(nil, wire.Header{Kind: wire.KindRequest, Flags: wire.FlagNone}, nil)
}

// endedBy reports whether the other side ends the link.
func endedBy(c net.Conn) bool {
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return false
	}
	_, err := io.Copy(io.Discard, c)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// drip sends the beginning of correct settings, one byte a second.
func drip(c net.Conn) error {
	b, err := wire.AppendSettings(nil, wire.Settings{Major: wire.Major, Calls: 1, Budget: 1 << 20, Message: 1 << 20, Window: 1 << 20})
	if err != nil {
		return err
	}
	frame := wire.AppendFrame(nil, wire.Header{Kind: wire.KindSettings, Flags: wire.FlagJSON}, b)
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for _, x := range frame[:drips] {
		if _, err := c.Write([]byte{x}); err != nil {
			return err
		}
		<-second.C
	}
	return nil
}
