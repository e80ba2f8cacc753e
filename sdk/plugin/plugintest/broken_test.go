package plugintest_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/memplugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/plugintest"
)

type none = struct{}

// Broken plugins wrap sound ones, each opened over a pipe of its own, and
// break one thing.

func brokenTransport(wrap func(sdk.Transport) sdk.Transport) plugin.Plugin {
	mem := memplugin.Transport()
	return plugin.Transport("mem", none{}, func(context.Context, none, plugin.Host) (sdk.Transport, error) {
		c, err := plugin.Pipe(context.Background(), mem, plugin.Options{})
		if err != nil {
			return nil, err
		}
		t, err := c.Transport()
		return wrap(t), err
	})
}

func brokenDiscovery(wrap func(sdk.Discovery) sdk.Discovery) plugin.Plugin {
	mem := memplugin.Discovery()
	return plugin.Discovery("mem", none{}, func(context.Context, none, plugin.Host) (sdk.Discovery, error) {
		c, err := plugin.Pipe(context.Background(), mem, plugin.Options{})
		if err != nil {
			return nil, err
		}
		d, err := c.Discovery()
		return wrap(d), err
	})
}

func brokenLedger(wrap func(sdk.Ledger) sdk.Ledger) plugin.Plugin {
	return plugin.Ledger("mem", none{}, func(context.Context, none, plugin.Host) (sdk.Ledger, error) {
		c, err := plugin.Pipe(context.Background(), memplugin.Ledger(), plugin.Options{})
		if err != nil {
			return nil, err
		}
		l, err := c.Ledger()
		return wrap(l), err
	})
}

func brokenBilling(wrap func(sdk.Billing) sdk.Billing) plugin.Plugin {
	return plugin.Billing("mem", none{}, func(context.Context, none, plugin.Host) (sdk.Billing, error) {
		c, err := plugin.Pipe(context.Background(), memplugin.Billing(), plugin.Options{})
		if err != nil {
			return nil, err
		}
		b, err := c.Billing()
		return wrap(b), err
	})
}

type transport struct {
	sdk.Transport
	dial   func(context.Context, sdk.Addr) (net.Conn, error)
	listen func(context.Context, sdk.Addr) (net.Listener, error)
}

func (t transport) Dial(ctx context.Context, a sdk.Addr) (net.Conn, error) {
	if t.dial != nil {
		return t.dial(ctx, a)
	}
	return t.Transport.Dial(ctx, a)
}

func (t transport) Listen(ctx context.Context, a sdk.Addr) (net.Listener, error) {
	if t.listen != nil {
		return t.listen(ctx, a)
	}
	return t.Transport.Listen(ctx, a)
}

// shortened reads only so many bytes.
type shortened struct {
	net.Conn
	r io.Reader
}

func (s shortened) Read(p []byte) (int, error) { return s.r.Read(p) }

type bound struct {
	net.Conn
	value byte
}

func (b bound) ChannelBinding() [32]byte { return [32]byte{b.value} }

type deafListener struct {
	net.Listener
	wait chan none
}

func (d deafListener) Accept() (net.Conn, error) { <-d.wait; return nil, net.ErrClosed }
func (d deafListener) Close() error              { close(d.wait); return nil }
func (d deafListener) Addr() net.Addr            { return &net.UnixAddr{Name: "again"} }

type neverClosed struct{ sdk.Transport }

func (neverClosed) Close() error { select {} }

type discovery struct {
	sdk.Discovery
	announce func(context.Context, []sdk.Envelope) error
	watch    func(context.Context, func(sdk.Event)) error
}

func (d discovery) Announce(ctx context.Context, self []sdk.Envelope) error {
	if d.announce != nil {
		return d.announce(ctx, self)
	}
	return d.Discovery.Announce(ctx, self)
}

func (d discovery) Watch(ctx context.Context, saw func(sdk.Event)) error {
	if d.watch != nil {
		return d.watch(ctx, saw)
	}
	return d.Discovery.Watch(ctx, saw)
}

type ledger struct {
	sdk.Ledger
	append   func(context.Context, sdk.Head, []sdk.Record) (sdk.Head, error)
	balances func(context.Context) (sdk.Head, map[sdk.Account]sdk.ATP, error)
}

func (l ledger) Append(ctx context.Context, after sdk.Head, batch []sdk.Record) (sdk.Head, error) {
	if l.append != nil {
		return l.append(ctx, after, batch)
	}
	return l.Ledger.Append(ctx, after, batch)
}

func (l ledger) Balances(ctx context.Context) (sdk.Head, map[sdk.Account]sdk.ATP, error) {
	if l.balances != nil {
		return l.balances(ctx)
	}
	return l.Ledger.Balances(ctx)
}

// hashing shows other hashes than the chain's.
type hashing struct{ sdk.Ledger }

func flipped(h sdk.Head) sdk.Head {
	if h.Seq > 0 {
		h.Hash[0] ^= 1
	}
	return h
}

func (l hashing) Append(ctx context.Context, after sdk.Head, batch []sdk.Record) (sdk.Head, error) {
	h, err := l.Ledger.Append(ctx, flipped(after), batch)
	return flipped(h), err
}

func (l hashing) Open(ctx context.Context) (sdk.Head, error) {
	h, err := l.Ledger.Open(ctx)
	return flipped(h), err
}

func (l hashing) Balances(ctx context.Context) (sdk.Head, map[sdk.Account]sdk.ATP, error) {
	h, sums, err := l.Ledger.Balances(ctx)
	return flipped(h), sums, err
}

type billing struct {
	sdk.Billing
	usage func(context.Context, []sdk.Running) ([]sdk.Usage, error)
	close func(context.Context, sdk.Running, sdk.Exit) (sdk.Usage, error)
}

func (b billing) Usage(ctx context.Context, live []sdk.Running) ([]sdk.Usage, error) {
	if b.usage != nil {
		return b.usage(ctx, live)
	}
	return b.Billing.Usage(ctx, live)
}

func (b billing) Close(ctx context.Context, r sdk.Running, e sdk.Exit) (sdk.Usage, error) {
	if b.close != nil {
		return b.close(ctx, r, e)
	}
	return b.Billing.Close(ctx, r, e)
}

func broken() map[string]plugin.Plugin {
	all := brokenTransports()
	for _, more := range []map[string]plugin.Plugin{brokenDiscoveries(), brokenLedgers(), brokenBillings()} {
		maps.Copy(all, more)
	}
	return all
}

func brokenTransports() map[string]plugin.Plugin {
	return map[string]plugin.Plugin{
		"cuts-long-streams": brokenTransport(func(in sdk.Transport) sdk.Transport {
			return transport{Transport: in, dial: func(ctx context.Context, a sdk.Addr) (net.Conn, error) {
				c, err := in.Dial(ctx, a)
				return shortened{c, io.LimitReader(c, 500_000)}, err
			}}
		}),
		"dials-anything": brokenTransport(func(in sdk.Transport) sdk.Transport {
			return transport{Transport: in, dial: func(ctx context.Context, a sdk.Addr) (net.Conn, error) {
				if c, err := in.Dial(ctx, a); err == nil {
					return c, nil
				}
				c, _ := net.Pipe()
				return c, nil
			}}
		}),
		"has-two-bindings": brokenTransport(func(in sdk.Transport) sdk.Transport {
			return transport{Transport: in, dial: func(ctx context.Context, a sdk.Addr) (net.Conn, error) {
				c, err := in.Dial(ctx, a)
				return bound{c, 1}, err
			}}
		}),
		"listens-twice": brokenTransport(func(in sdk.Transport) sdk.Transport {
			return transport{Transport: in, listen: func(ctx context.Context, a sdk.Addr) (net.Listener, error) {
				if l, err := in.Listen(ctx, a); err == nil {
					return l, nil
				}
				return deafListener{wait: make(chan none)}, nil
			}}
		}),
		"leaks": brokenTransport(func(in sdk.Transport) sdk.Transport {
			var kept []*os.File
			return transport{Transport: in, dial: func(ctx context.Context, a sdk.Addr) (net.Conn, error) {
				f, _ := os.Open("/dev/null")
				kept = append(kept, f)
				return in.Dial(ctx, a)
			}}
		}),
		"exits-on-dial": brokenTransport(func(in sdk.Transport) sdk.Transport {
			return transport{Transport: in, dial: func(context.Context, sdk.Addr) (net.Conn, error) {
				os.Exit(1)
				return nil, nil
			}}
		}),
		"never-closes": brokenTransport(func(in sdk.Transport) sdk.Transport { return neverClosed{in} }),
	}
}

func brokenDiscoveries() map[string]plugin.Plugin {
	return map[string]plugin.Plugin{
		"never-syncs": brokenDiscovery(func(in sdk.Discovery) sdk.Discovery {
			return discovery{Discovery: in, watch: func(ctx context.Context, saw func(sdk.Event)) error {
				return in.Watch(ctx, func(e sdk.Event) {
					if e.Kind != sdk.EventSynced {
						saw(e)
					}
				})
			}}
		}),
		"never-says-goodbye": brokenDiscovery(func(in sdk.Discovery) sdk.Discovery {
			return discovery{Discovery: in, announce: func(ctx context.Context, self []sdk.Envelope) error {
				if len(self) == 0 {
					return nil
				}
				return in.Announce(ctx, self)
			}}
		}),
		"announces-once": brokenDiscovery(func(in sdk.Discovery) sdk.Discovery {
			var did atomic.Bool
			return discovery{Discovery: in, announce: func(ctx context.Context, self []sdk.Envelope) error {
				if len(self) > 0 && did.Swap(true) {
					return nil
				}
				return in.Announce(ctx, self)
			}}
		}),
		"hangs-announcing": brokenDiscovery(func(in sdk.Discovery) sdk.Discovery {
			return discovery{Discovery: in, announce: func(ctx context.Context, _ []sdk.Envelope) error {
				<-ctx.Done()
				return ctx.Err()
			}}
		}),
	}
}

func brokenLedgers() map[string]plugin.Plugin {
	return map[string]plugin.Plugin{
		"ignores-fences": brokenLedger(func(in sdk.Ledger) sdk.Ledger {
			return ledger{Ledger: in, append: func(ctx context.Context, _ sdk.Head, batch []sdk.Record) (h sdk.Head, err error) {
				for err = io.EOF; err != nil && (err == io.EOF || sdk.CodeOf(err) == sdk.CodeFenced); {
					now, _ := in.Open(ctx)
					h, err = in.Append(ctx, now, batch)
				}
				return h, err
			}}
		}),
		"fences-repeats": brokenLedger(func(in sdk.Ledger) sdk.Ledger {
			return ledger{Ledger: in, append: func(ctx context.Context, after sdk.Head, batch []sdk.Record) (sdk.Head, error) {
				if now, _ := in.Open(ctx); now != after {
					return now, sdk.Errorf(sdk.CodeFenced, "stale")
				}
				return in.Append(ctx, after, batch)
			}}
		}),
		"stores-halves": brokenLedger(func(in sdk.Ledger) sdk.Ledger {
			return ledger{Ledger: in, append: func(ctx context.Context, after sdk.Head, batch []sdk.Record) (h sdk.Head, err error) {
				for i := range batch {
					if after, err = in.Append(ctx, after, batch[i:i+1]); err != nil {
						break
					}
				}
				return after, err
			}}
		}),
		"sums-nothing": brokenLedger(func(in sdk.Ledger) sdk.Ledger {
			return ledger{Ledger: in, balances: func(ctx context.Context) (sdk.Head, map[sdk.Account]sdk.ATP, error) {
				h, _, err := in.Balances(ctx)
				return h, nil, err
			}}
		}),
		"chains-otherwise": brokenLedger(func(in sdk.Ledger) sdk.Ledger { return hashing{in} }),
		"takes-anything": brokenLedger(func(in sdk.Ledger) sdk.Ledger {
			return ledger{Ledger: in, append: func(ctx context.Context, after sdk.Head, batch []sdk.Record) (sdk.Head, error) {
				h, err := in.Append(ctx, after, batch)
				if sdk.CodeOf(err) == sdk.CodeInvalid {
					return after, nil
				}
				return h, err
			}}
		}),
		"forgets": brokenLedger(func(in sdk.Ledger) sdk.Ledger { return in }),
	}
}

func brokenBillings() map[string]plugin.Plugin {
	return map[string]plugin.Plugin{
		"counts-back": brokenBilling(func(in sdk.Billing) sdk.Billing {
			left := time.Hour
			return billing{Billing: in, usage: func(ctx context.Context, live []sdk.Running) ([]sdk.Usage, error) {
				us, err := in.Usage(ctx, live)
				for i := range us {
					left -= time.Second
					us[i].CPU = left
				}
				return us, err
			}}
		}),
		"trusts-numbers": brokenBilling(func(in sdk.Billing) sdk.Billing {
			return billing{Billing: in, usage: func(ctx context.Context, live []sdk.Running) ([]sdk.Usage, error) {
				us, err := in.Usage(ctx, live)
				if len(us) == 0 && len(live) == 1 && exists(live[0].PID) {
					us = append(us, sdk.Usage{ID: live[0].ID, CPU: time.Second})
				}
				return us, err
			}}
		}),
		"closes-once": brokenBilling(func(in sdk.Billing) sdk.Billing {
			closed := map[sdk.WorkloadID]bool{}
			return billing{Billing: in, close: func(ctx context.Context, r sdk.Running, e sdk.Exit) (sdk.Usage, error) {
				if closed[r.ID] {
					return sdk.Usage{}, sdk.Errorf(sdk.CodeNotFound, "closed already")
				}
				closed[r.ID] = true
				return in.Close(ctx, r, e)
			}}
		}),
	}
}

func exists(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return err == nil
}

// strange are processes that are sound plugins but for how they behave.
func strange() map[string]func() {
	return map[string]func(){
		"json-stderr": func() {
			fmt.Fprintln(os.Stderr, `{"@message":5}`)
			plugin.Main(memplugin.Billing())
		},
		"exits": func() { os.Exit(3) },
	}
}

// A broken plugin fails the clauses it breaks and passes all others.
func TestBrokenPluginsFailWhatTheyBreak(t *testing.T) {
	for name, want := range map[string][]string{
		"cuts-long-streams":  {"transport/duplex", "transport/eof-accepted"},
		"dials-anything":     {"transport/bad-address", "transport/nobody"},
		"has-two-bindings":   {"transport/binding"},
		"listens-twice":      {"transport/in-use"},
		"never-syncs":        {"discovery/seen", "discovery/synced", "discovery/two-watches", "discovery/watch-ends"},
		"never-says-goodbye": {"discovery/goodbye"},
		"announces-once":     {"discovery/replace"},
		"ignores-fences":     {"ledger/fence", "ledger/race"},
		"fences-repeats":     {"ledger/idempotent"},
		"stores-halves":      {"ledger/atomic"},
		"sums-nothing":       {"ledger/balances", "ledger/snapshot"},
		"chains-otherwise":   {"ledger/chain"},
		"takes-anything":     {"ledger/atomic", "ledger/conflict", "ledger/overflow", "ledger/partial", "ledger/twice"},
		"forgets":            {"ledger/reopen"},
		"counts-back":        {"billing/close", "billing/monotonic", "billing/usage"},
		"trusts-numbers":     {"billing/reused"},
		"closes-once":        {"billing/close"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := plugintest.Options{Timeout: 6 * time.Second, Volatile: name != "forgets"}
			if name == "stores-halves" { // whoever reads meanwhile may see a half, or not
				o.Only = []string{"ledger/append-read", "ledger/atomic", "ledger/idempotent"}
			}
			expect(t, plugintest.InProcess(broken()[name]), o, want)
		})
	}
}

func TestBrokenProcesses(t *testing.T) {
	for name, c := range map[string]struct {
		only, want []string
	}{
		"leaks":            {nil, []string{"transport/leak"}},
		"exits-on-dial":    {[]string{"config-strict", "ping", "stop", "orphan", "killed", "transport/close-accept", "transport/echo"}, []string{"transport/echo"}},
		"never-closes":     {[]string{"ping", "stop"}, []string{"stop"}},
		"hangs-announcing": {[]string{"discovery/synced", "discovery/again"}, []string{"discovery/again"}},
		"json-stderr":      {nil, nil},
		"exits":            {nil, []string{"start"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target, o := process(t, name)
			o.Only, o.Timeout = c.only, 5*time.Second
			expect(t, target, o, c.want)
		})
	}
}

func expect(t *testing.T, target plugintest.Target, o plugintest.Options, want []string) {
	t.Helper()
	r := plugintest.Run(context.Background(), target, o)
	var failed []string
	why := ""
	for _, res := range r.Results {
		if res.Verdict == plugintest.Fail {
			failed = append(failed, res.Clause)
			why += fmt.Sprintf("\n%s: %s", res.Clause, res.Why)
		}
	}
	slices.Sort(failed)
	if !slices.Equal(failed, want) {
		t.Errorf("failed %q, want %q%s", failed, want, why)
	}
	if r.OK != (len(want) == 0) {
		t.Errorf("OK is %v", r.OK)
	}
}
