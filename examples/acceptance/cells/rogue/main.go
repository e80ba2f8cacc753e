// The cell rogue speaks the kernel's and the links' protocols by hand, to do
// what no sdk would: "cycle CELL N" opens and closes links, "hurt CELL WAY"
// breaks the format in one of several ways, and waits until the other side has
// ended each link.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

const patience = 20 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "rogue:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return errors.New("want cycle CELL N, or hurt CELL WAY")
	}
	r, err := attach()
	if err != nil {
		return err
	}
	defer r.ch.Close()
	endpoint, err := r.find(sdk.CellName(args[1]))
	if err != nil {
		return err
	}
	switch {
	case args[0] == "cycle" && len(args) == 3:
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return r.cycle(sdk.CellName(args[1]), endpoint, n)
	case args[0] == "hurt" && len(args) == 3:
		return r.hurt(sdk.CellName(args[1]), endpoint, args[2])
	}
	return fmt.Errorf("unknown command %q", args)
}

// A rogue is attached to the kernel.
type rogue struct {
	ch  *channel.Conn
	buf []byte
	id  uint64
}

func attach() (*rogue, error) {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: os.Getenv(cell.EnvSocket), Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	r := &rogue{ch: channel.New(conn), buf: make([]byte, channel.MaxMessage)}
	hello := &channel.Hello{Version: channel.Version, PID: os.Getpid(), Token: os.Getenv(cell.EnvToken)}
	if err := r.ch.SendMessage(channel.Message{Type: channel.TypeHello, Hello: hello}); err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	if _, _, err := r.await(channel.TypeWelcome); err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	return r, r.ch.SendMessage(channel.Message{Type: channel.TypeReady})
}

// await receives until a message of the type comes.
func (r *rogue) await(kind string) (channel.Message, *os.File, error) {
	if err := r.ch.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return channel.Message{}, nil, err
	}
	for {
		m, files, err := r.ch.RecvMessage(r.buf)
		if err != nil {
			return m, nil, err
		}
		switch {
		case m.Type == kind && len(files) == 1:
			return m, files[0], nil
		case m.Type == kind:
			return m, nil, nil
		case m.Type == channel.TypeRefused && m.Failure != nil:
			return m, nil, m.Failure.Err()
		}
		for _, f := range files {
			f.Close()
		}
	}
}

// find returns an endpoint of a cell.
func (r *rogue) find(name sdk.CellName) (string, error) {
	if err := r.ch.SendMessage(channel.Message{Type: channel.TypeNeed, Name: name}); err != nil {
		return "", err
	}
	for {
		m, _, err := r.await(channel.TypeEndpoints)
		if err != nil {
			return "", fmt.Errorf("find %q: %w", name, err)
		}
		if m.Name == name && m.Endpoints != nil && len(m.Endpoints.Local) > 0 {
			return m.Endpoints.Local[0], nil
		}
	}
}

// dial opens a link.
func (r *rogue) dial(name sdk.CellName, endpoint string) (net.Conn, error) {
	r.id++
	if err := r.ch.SendMessage(channel.Message{Type: channel.TypeDial, ID: r.id, Name: name, Endpoint: endpoint}); err != nil {
		return nil, err
	}
	_, f, err := r.await(channel.TypeLink)
	if err != nil {
		return nil, fmt.Errorf("dial %q: %w", endpoint, err)
	}
	if f == nil {
		return nil, fmt.Errorf("dial %q: link without a descriptor", endpoint)
	}
	defer f.Close()
	return net.FileConn(f)
}

// cycle opens a link and closes it once the other side has greeted, n times.
func (r *rogue) cycle(name sdk.CellName, endpoint string, n int) error {
	begin := time.Now()
	for range n {
		c, err := r.dial(name, endpoint)
		if err != nil {
			return err
		}
		if err := greeted(c); err != nil {
			return err
		}
		c.Close()
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"cycles": n, "ms": time.Since(begin).Milliseconds()})
}

// greeted waits for the first byte of the other side's settings.
func greeted(c net.Conn) error {
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, wire.HeaderSize))
	return err
}
