// Package lighthousediscovery finds nodes through lighthouses: servers that
// every node of a mesh can reach, where multicast does not. Each node keeps
// itself registered at all of its lighthouses, and each of them tells it who
// else is in its mesh.
//
// A lighthouse is believed nothing. Announcements are sealed by the kernel, so
// it can not read, make or change any; it can keep back what it knows, and
// name wrong addresses, which costs a failed dial. One that is unreachable
// delays nothing for longer than the time-out, and one that restarts knows
// everybody again after a beat.
package lighthousediscovery

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/datagram"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// leaveTime bounds the goodbye of a plugin that ends.
const leaveTime = time.Second

// Plugin returns the discovery "lighthouse".
func Plugin() plugin.Plugin { return plugin.Discovery("lighthouse", DefaultConfig(), New) }

// A Discovery is a node at its lighthouses.
type Discovery struct {
	beat, timeout time.Duration
	dial          dialer
	sessions      []*session
	view          *view
	cancel        context.CancelFunc
	running       sync.WaitGroup

	mu     sync.Mutex // guards the fields below and every session's status
	self   *announcement
	follow bool          // somebody watches, or did
	change chan struct{} // closed and replaced when any of this changes
}

// An announcement is what the node says about itself.
type announcement struct {
	gen       uint64 // counts announcements
	tag       datagram.Tag
	hashes    []datagram.Hash // none: goodbye
	envelopes []sdk.Envelope
}

// A dialer opens a socket to a lighthouse that receives from nobody else.
type dialer func(ctx context.Context, server string, attempt int) (net.Conn, error)

// New begins to look for the lighthouses as soon as there is something to say
// or to watch.
func New(_ context.Context, config Config, host plugin.Host) (*Discovery, error) {
	return open(config, host.Subkey("lighthouse"), host.Log(), dialUDP), nil
}

func open(config Config, secret [32]byte, log *slog.Logger, dial dialer) *Discovery {
	ctx, cancel := context.WithCancel(context.Background())
	d := &Discovery{
		beat: time.Duration(config.Beat), timeout: time.Duration(config.Timeout),
		dial: dial, view: newView(), cancel: cancel, change: make(chan struct{}),
	}
	for _, name := range config.Servers {
		s := newSession(d, name, keyFor(secret, name), log.With("lighthouse", name))
		d.sessions = append(d.sessions, s)
		d.running.Go(func() { s.run(ctx) })
	}
	return d
}

// keyFor returns the key of this node at one lighthouse. Each has its own, or
// one lighthouse could pass a registration on to another as if the node were
// at its address.
func keyFor(secret [32]byte, server string) ed25519.PrivateKey {
	h := hmac.New(sha256.New, secret[:])
	h.Write([]byte("server " + server))
	return ed25519.NewKeyFromSeed(h.Sum(nil))
}

// Close says goodbye and ends everything.
func (d *Discovery) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), min(leaveTime, d.timeout))
	defer cancel()
	d.set(nil)
	d.await(ctx, d.left)
	d.cancel()
	d.running.Wait()
	return nil
}

// Announce returns when one lighthouse accepted self. If none does in time,
// that is an error; they go on being asked.
func (d *Discovery) Announce(ctx context.Context, self []sdk.Envelope) error {
	tag, err := tagOf(self)
	if err != nil {
		return err
	}
	a := &announcement{tag: tag}
	for _, e := range self {
		a.envelopes = append(a.envelopes, slices.Clone(e))
		a.hashes = append(a.hashes, datagram.HashOf(e))
	}
	d.set(a)
	bound, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	if len(self) == 0 {
		d.await(bound, d.left) // who does not hear it sees the lease end
		return ctx.Err()
	}
	if d.await(bound, d.accepted) {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return sdk.Errorf(sdk.CodeUnavailable, "no lighthouse accepted it yet: %v", d.reasons())
}

// tagOf returns the tag of all envelopes of a node.
func tagOf(self []sdk.Envelope) (tag datagram.Tag, err error) {
	for i, e := range self {
		switch t := datagram.TagOf(e); {
		case len(e) == 0 || len(e) > sdk.MaxEnvelope:
			return tag, sdk.Errorf(sdk.CodeTooLarge, "envelope %d of %d bytes: want 1 to %d", i, len(e), sdk.MaxEnvelope)
		case i > 0 && t != tag:
			return tag, sdk.Errorf(sdk.CodeInvalid, "envelopes 0 and %d are of two meshes", i)
		default:
			tag = t
		}
	}
	if len(self) > sdk.MaxEnvelopes {
		return tag, sdk.Errorf(sdk.CodeTooLarge, "%d envelopes: at most %d", len(self), sdk.MaxEnvelopes)
	}
	return tag, nil
}

// set replaces what is announced; nil is a goodbye.
func (d *Discovery) set(a *announcement) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a == nil {
		a = &announcement{}
	}
	a.gen = 1
	if d.self != nil {
		a.gen = d.self.gen + 1
		if len(a.hashes) == 0 {
			a.tag = d.self.tag // it left this mesh
		}
	}
	d.self = a
	d.changed()
	for _, s := range d.sessions {
		s.interrupt()
	}
}

// changed tells everybody who waits. The caller holds d.mu.
func (d *Discovery) changed() {
	close(d.change)
	d.change = make(chan struct{})
}

// await waits until ok, which is called with d.mu held, or ctx is done.
func (d *Discovery) await(ctx context.Context, ok func() bool) bool {
	for {
		d.mu.Lock()
		done, change := ok(), d.change
		d.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-change:
		case <-ctx.Done():
			return false
		}
	}
}

// accepted reports whether a lighthouse has the newest announcement.
func (d *Discovery) accepted() bool {
	return slices.ContainsFunc(d.sessions, func(s *session) bool { return s.status.accepted == d.self.gen })
}

// left reports whether no lighthouse has this node.
func (d *Discovery) left() bool {
	return !slices.ContainsFunc(d.sessions, func(s *session) bool { return s.status.registered })
}

// reasons says of every lighthouse what is wrong with it.
func (d *Discovery) reasons() error {
	var text error
	for _, s := range d.sessions {
		err := s.status.err
		if err == nil {
			err = errNoAnswer
		}
		if err = fmt.Errorf("%s: %w", s.name, err); text == nil {
			text = err
		} else {
			text = fmt.Errorf("%w; %w", text, err)
		}
	}
	return text
}

var errNoAnswer = errors.New("no answer")

// Watch reports what the lighthouses know, this node included. The snapshot is
// complete when each of them sent all it has or did not answer in time, and at
// least one did answer: while all are unreachable there is no view of the mesh.
func (d *Discovery) Watch(ctx context.Context, saw func(sdk.Event)) error {
	// Which mesh to ask for is known from the announcement. Who watches without
	// one sees envelopes that are of no mesh.
	bound, cancel := context.WithTimeout(ctx, d.timeout)
	d.await(bound, func() bool { return d.self != nil || d.follow })
	cancel()
	d.mu.Lock()
	if !d.follow {
		d.follow = true
		d.changed()
		for _, s := range d.sessions {
			s.interrupt()
		}
	}
	d.mu.Unlock()
	w := d.view.watch()
	defer d.view.leave(w)
	for synced := false; ; {
		d.mu.Lock()
		ready, change := d.synced(), d.change
		d.mu.Unlock()
		if err := d.view.drain(w, saw); err != nil {
			return err
		}
		if ready && !synced {
			saw(sdk.Event{Kind: sdk.EventSynced})
			synced = true
		}
		if synced {
			change = nil
		}
		select {
		case <-w.wake:
		case <-change:
		case <-ctx.Done():
			return nil
		}
	}
}

// synced reports whether every lighthouse answered or had its time.
func (d *Discovery) synced() bool {
	some := false
	for _, s := range d.sessions {
		if !s.status.synced && !s.status.late {
			return false
		}
		some = some || s.status.synced
	}
	return some
}
