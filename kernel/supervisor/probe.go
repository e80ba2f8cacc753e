package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"
)

const (
	probeFirst   = 20 * time.Millisecond // pause after the first try; it doubles
	probeCap     = 500 * time.Millisecond
	probeTimeout = 2 * time.Second // of one try
)

// A Probe finds out from outside whether a replica is ready. Exactly one of
// the fields is set.
type Probe struct {
	TCP  string   // host:port that accepts connections
	HTTP string   // URL that answers a GET with a status below 400
	Exec []string // command that exits with 0; environment and directory are the cell's
}

// check reports what is wrong with p.
func (p Probe) check() error {
	set := 0
	for _, given := range []bool{p.TCP != "", p.HTTP != "", len(p.Exec) > 0} {
		if given {
			set++
		}
	}
	if set != 1 {
		return errors.New("ready: want exactly one of tcp, http and exec")
	}
	return nil
}

// address returns the host:port that p connects to, empty if it does not.
func (p Probe) address() string {
	u, err := url.Parse(p.HTTP)
	switch {
	case p.HTTP == "" || err != nil:
		return p.TCP
	case u.Port() == "":
		return net.JoinHostPort(u.Hostname(), "80")
	}
	return u.Host
}

// await tries until the probe succeeds, which is nil, or ctx is done, which
// is the last try's error.
func (p Probe) await(ctx context.Context, try func(context.Context) error) error {
	for pause := probeFirst; ; pause = min(2*pause, probeCap) {
		attempt, cancel := context.WithTimeout(ctx, probeTimeout)
		err := try(attempt)
		cancel()
		if err == nil {
			return nil
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

// try makes one attempt.
func (p Probe) try(ctx context.Context, spawn spawnFunc, spec CellSpec) error {
	switch {
	case p.TCP != "":
		return tryTCP(ctx, p.TCP)
	case p.HTTP != "":
		return tryHTTP(ctx, p.HTTP)
	}
	return tryExec(ctx, spawn, Spec{Name: "probe-" + string(spec.Name), Argv: p.Exec, Env: spec.Env, Dir: spec.Dir})
}

func tryTCP(ctx context.Context, addr string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return c.Close()
}

func tryHTTP(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	// A transport of its own keeps no connection to a replica that may go.
	transport := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	if resp.StatusCode >= 400 {
		return fmt.Errorf("get %s: %s", url, resp.Status)
	}
	return nil
}

func tryExec(ctx context.Context, spawn spawnFunc, spec Spec) error {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	spec.Stdout, spec.Stderr = null, null
	p, err := spawn(ctx, spec)
	if err != nil {
		return err
	}
	select {
	case <-p.Exited():
	case <-ctx.Done():
		return errors.Join(ctx.Err(), p.Kill())
	}
	if e := p.Exit(); e.Code != 0 {
		return fmt.Errorf("%q: %s", spec.Argv[0], e)
	}
	return nil
}
