// Package multicastdiscovery is the discovery of a local network: nodes send
// their envelopes to a multicast group and hear those of the others. Nobody has
// to know an address. (In the terms of the biology: the pheromones.)
//
// A datagram is one envelope, as it is; an empty one is a goodbye. It reaches
// every node of the link, on this machine and on others, and no other link.
//
// There are three parts. The network keeps sockets at every interface that can
// multicast, whatever comes and goes. The speaker says what we announce: three
// times when it is new, then once a beat, and within 300 ms when somebody is
// heard for the first time. The ear takes in what arrives and queues it for
// those who watch.
//
// Everybody on the link can send anything. The kernel verifies envelopes; this
// package sees to it that a flood costs a bounded amount of memory and of the
// kernel's time, and that who was heard before is heard on.
package multicastdiscovery

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// settleIn is how long after the start a snapshot is complete: who has heard
// our burst has answered.
const settleIn = maxAnswer + burstGap

// goodbye is the datagram that ends what its sender announced.
var goodbye = []byte{}

// Plugin returns the discovery "multicast".
func Plugin() plugin.Plugin { return plugin.Discovery("multicast", DefaultConfig(), New) }

// A Discovery speaks to and hears the nodes of the local network.
type Discovery struct {
	ear     *ear
	speaker *speaker[*member]
	ready   chan struct{} // closed settleIn after the start
	closed  chan struct{}
	close   func()
}

// New opens the discovery. It never fails for want of a network: it waits for
// one, and says so.
func New(_ context.Context, config Config, host plugin.Host) (*Discovery, error) {
	return open(config, host, netlinks{}), nil
}

func open(config Config, host plugin.Host, l links) *Discovery {
	beat, log := time.Duration(config.Beat), host.Log()
	d := &Discovery{ear: newEar(beat, log), speaker: newSpeaker[*member](beat, log), ready: make(chan struct{}), closed: make(chan struct{})}
	n := newNetwork(config, log, l)
	n.joined, n.left = d.speaker.enter, d.speaker.exit
	n.heard = func(m *member, from netip.AddrPort, b []byte) {
		if d.ear.hear(from, b, time.Now()) {
			d.speaker.answer(m)
		}
	}
	ready := time.AfterFunc(settleIn, func() { close(d.ready) })
	speaking, hush := context.WithCancel(context.Background())
	present, leave := context.WithCancel(context.Background())
	var speaks, follows sync.WaitGroup
	speaks.Go(func() { d.speaker.run(speaking) })
	follows.Go(func() { n.run(present) })
	d.close = sync.OnceFunc(func() {
		hush() // the last words need the network
		speaks.Wait()
		leave()
		follows.Wait()
		d.ear.close()
		ready.Stop()
		close(d.closed)
	})
	return d
}

// Announce makes self what is said from now on. It does not wait for the
// network. An empty self says goodbye, which anybody could have said: a kernel
// believes only one that is signed.
func (d *Discovery) Announce(ctx context.Context, self []sdk.Envelope) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if isClosed(d.closed) {
		return sdk.Errorf(sdk.CodeUnavailable, "announce: closed")
	}
	d.ear.know(self) // before it is said
	d.speaker.announce(self)
	return nil
}

// Watch reports what was heard within the last two beats, and goes on with what
// is heard. Synced comes half a second after the start at the earliest, when
// all who answer have done so. While saw does not return events wait in a
// bounded queue.
func (d *Discovery) Watch(ctx context.Context, saw func(sdk.Event)) error {
	w, known, err := d.ear.watch(time.Now())
	if err != nil {
		return err
	}
	defer d.ear.unwatch(w)
	for _, r := range known {
		if ctx.Err() != nil {
			return nil
		}
		saw(sdk.Event{Kind: sdk.EventSeen, Envelope: r.envelope, Origin: r.origin.String()})
	}
	known = nil // or all of it stays in memory
	synced := false
	for ctx.Err() == nil {
		if !synced && isClosed(d.ready) { // first: there may always be an event
			synced = true
			saw(sdk.Event{Kind: sdk.EventSynced})
			continue
		}
		if e, ok := d.ear.next(w); ok {
			saw(e)
			continue
		}
		var ready <-chan struct{} = d.ready
		if synced {
			ready = nil
		}
		select {
		case <-w.wake:
		case <-ready:
		case <-d.closed:
			return sdk.Errorf(sdk.CodeUnavailable, "watch: closed")
		case <-ctx.Done():
		}
	}
	return nil
}

// Close finishes what is being said, an announcement or a goodbye, and leaves
// the groups. It says no goodbye by itself: a node outlives its plugins.
func (d *Discovery) Close() error {
	d.close()
	return nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
