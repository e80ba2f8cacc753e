package plugintest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

func checkNobody(e *env) error {
	k, err := listen(e)
	if err != nil {
		return err
	}
	k.l.Close()
	ctx, cancel := context.WithTimeout(e.ctx, 10*time.Second)
	defer cancel()
	c, err := k.tr.Dial(ctx, k.addr)
	if err == nil {
		c.Close()
		return fmt.Errorf("dialled %s, where nobody listens any more", k.addr)
	}
	if ctx.Err() != nil {
		return errors.New("it took more than 10 s to find out")
	}
	return nil
}

func checkCancelled(e *env) error {
	k, err := listen(e)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	c, err := k.tr.Dial(ctx, k.addr)
	if err == nil {
		c.Close()
		return errors.New("dialled although ctx was done")
	}
	if !errors.Is(err, context.Canceled) {
		return fmt.Errorf("the error is %v: want one that is context.Canceled", err)
	}
	return nil
}

func checkInUse(e *env) error {
	k, err := listen(e)
	if err != nil {
		return err
	}
	again, err := k.tr.Listen(e.ctx, sdk.Addr{Scheme: k.addr.Scheme, Host: k.addr.Host})
	if err == nil {
		again.Close()
		return fmt.Errorf("listened twice at %s", k.addr)
	}
	if k.near, k.far, err = k.connect(); err != nil {
		return fmt.Errorf("the first listener does not work any more: %w", err)
	}
	return checkEcho(k)
}

func checkRebind(e *env) error {
	k, err := listen(e)
	if err != nil {
		return err
	}
	for range 5 {
		k.l.Close()
		k.l, err = k.tr.Listen(e.ctx, sdk.Addr{Scheme: k.addr.Scheme, Host: k.addr.Host})
		if err != nil {
			return fmt.Errorf("listen again at %s: %w", k.addr, err)
		}
	}
	if err := k.resolve(); err != nil {
		return err
	}
	k.near, k.far, err = k.connect()
	if err != nil {
		return err
	}
	return checkEcho(k)
}

func checkCloseAccept(e *env) error {
	k, err := listen(e)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		c, err := k.l.Accept()
		if err == nil {
			c.Close()
		}
		ended <- err
	}()
	k.l.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("got %v, want net.ErrClosed", err)
		}
		return nil
	case <-e.ctx.Done():
		return errors.New("the call of Accept still waits")
	}
}

func checkBadAddress(e *env) error {
	k, err := listen(e)
	if err != nil {
		return err
	}
	for _, a := range []sdk.Addr{
		{Scheme: "nosuch", Host: "nowhere"},
		{Scheme: e.info.Name, Host: "\x00"},
		{Scheme: e.info.Name, Host: "999.999.999.999:99999999"},
	} {
		if l, err := k.tr.Listen(e.ctx, a); err == nil && a.Scheme == "nosuch" {
			l.Close()
			return fmt.Errorf("listened at %q", a)
		} else if err == nil {
			l.Close() // some transports take any host
		}
		ctx, cancel := context.WithTimeout(e.ctx, 10*time.Second)
		c, err := k.tr.Dial(ctx, a)
		cancel()
		if err == nil {
			c.Close()
			return fmt.Errorf("dialled %q", a)
		}
	}
	k.near, k.far, err = k.connect()
	return err
}

func checkBacklog(e *env) error {
	k, err := listen(e)
	if err != nil {
		return err
	}
	const n = 8
	for i := range n {
		c, err := k.tr.Dial(e.ctx, k.addr)
		if err != nil {
			return fmt.Errorf("connection %d: %w", i+1, err)
		}
		e.later(func() { c.Close() })
		if _, err := c.Write([]byte{byte(i)}); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(e.ctx, func() { k.l.Close() })
	defer stop()
	seen := map[byte]bool{}
	for len(seen) < n {
		c, err := k.l.Accept()
		if err != nil {
			return fmt.Errorf("accept after %d of %d: %w", len(seen), n, err)
		}
		b := make([]byte, 1)
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err = io.ReadFull(c, b)
		c.Close()
		if err != nil {
			return err
		}
		seen[b[0]] = true
	}
	return nil
}

// checkTransportLeak compares the plugin's descriptors before and after.
func checkTransportLeak(e *env) error {
	k, err := listen(e)
	if err != nil {
		return err
	}
	pid := e.clients[len(e.clients)-1].Info().PID
	if err := k.cycle(20); err != nil { // first uses allocate what stays
		return err
	}
	before, err := countFDs(pid)
	if err != nil {
		return skipError(err.Error())
	}
	if err := k.cycle(100); err != nil {
		return err
	}
	const slack = 10
	after := 0
	for {
		if after, err = countFDs(pid); err != nil || after <= before+slack {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond): // the plugin may close a little later
		case <-e.ctx.Done():
			return fmt.Errorf("%d descriptors before, %d after 100 connections", before, after)
		}
	}
}

func (k *link) cycle(n int) error {
	for range n {
		near, far, err := k.connect()
		if err != nil {
			return err
		}
		near.Close()
		far.Close()
	}
	return nil
}

func countFDs(pid int) (int, error) {
	d, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(d), err
}
