package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
	"github.com/cellkernel/cellkernel/examples/acceptance/netprobe"
	"github.com/cellkernel/cellkernel/examples/netlab"
	"github.com/cellkernel/cellkernel/sdk"
)

const (
	coldStarts = 20
	startBound = 3 * time.Second
	callWithin = 20 * time.Second // for a call that must come at all

	// Names that are in no frame by chance.
	hereNode, thereNode, foreignNode = "mitochondrion", "ribosome", "bacterium"
	hereCell, thereCell              = "axolotl", "zebrafish"
)

// A startWorld is what the cold starts share.
type startWorld struct {
	*world
	here, there, foreign *lab.Site
	light                string // address of the lighthouse
	nodes                map[string]bool
}

func tryStart(ctx context.Context, l *lab.Lab, f findings) (err error) {
	w, err := newWorld(l)
	if err != nil {
		return err
	}
	defer w.end(&err)
	sites, err := w.sites("here", "there")
	if err != nil {
		return err
	}
	s := &startWorld{world: w, here: sites[0], there: sites[1], nodes: map[string]bool{}}
	if s.foreign, err = w.siteOf("foreign", netlab.V4, lab.NewSecret()); err != nil {
		return err
	}
	addr, end, err := w.lighthouse("light")
	if err != nil {
		return err
	}
	defer end()
	s.light = addr
	capture, err := s.here.Host.Capture()
	if err != nil {
		return err
	}
	err = s.all(ctx, f)
	frames, cerr := capture.Stop()
	if err := errors.Join(err, cerr); err != nil {
		return err
	}
	secret := s.secrets(frames)
	f.add("start-secret", len(secret) == 0 && len(frames) > 100 && len(s.nodes) == 3, "%d of %d %s", len(secret), len(frames), strings.Join(secret[:min(3, len(secret))], " "))
	return nil
}

func (s *startWorld) all(ctx context.Context, f findings) error {
	at := func(site *lab.Site) string { return site.Host.Addr(netlab.V4).String() + ":9000/" }
	for _, v := range []struct{ id, golgi, toThere, toHere string }{
		{"start-multicast", byMulticast, thereCell, hereCell},
		{"start-lighthouse", byLighthouse(s.light), thereCell, hereCell},
		{"start-static", byNothing, at(s.there) + thereCell, at(s.here) + hereCell},
	} {
		here := genome(hereNode, v.golgi, echoCell(hereCell, hereNode), callerCell("", v.toThere))
		there := genome(thereNode, v.golgi, echoCell(thereCell, thereNode), callerCell(fmt.Sprintf(`, "-first", %q`, hereCell), v.toHere))
		took, err := s.starts(ctx, here, there)
		if len(took) > 0 {
			slices.Sort(took)
			worst := took[len(took)-1]
			f.add(v.id, err == nil && worst <= startBound && len(took) == 2*coldStarts, "%s (median %s), %d calls", ms(worst), ms(took[len(took)/2]), len(took))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", v.id, err)
		}
	}
	return s.strange(ctx, f)
}

// starts boots one host and then the other, again and again. It returns the
// times from exec to the first call, in either direction.
func (s *startWorld) starts(ctx context.Context, here, there string) (took []time.Duration, err error) {
	k, err := s.here.Boot(ctx, here)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, k.Down(ctx)) }()
	for range coldStarts {
		if err := expect(ctx, k, thereCell, callWithin); err != nil {
			return took, err
		}
		begin, err := netprobe.Now()
		if err != nil {
			return took, err
		}
		other, err := s.there.Exec(there)
		if err != nil {
			return took, err
		}
		to, err := goal(ctx, k)
		if err != nil {
			return took, fmt.Errorf("to the new host: %w\n%s", err, other.Stderr())
		}
		if err := other.Ready(ctx); err != nil {
			return took, err
		}
		by, err := goal(ctx, other)
		if err != nil {
			return took, fmt.Errorf("by the new host: %w", err)
		}
		took = append(took, time.Duration(to.Ended-begin), time.Duration(by.Ended-begin))
		if err := errors.Join(s.note(ctx, k), s.note(ctx, other), other.Down(ctx)); err != nil {
			return took, err
		}
	}
	return took, nil
}

// note remembers the id of a kernel's node.
func (s *startWorld) note(ctx context.Context, k *lab.Kernel) error {
	self, _, err := peersOf(ctx, k)
	if err == nil && self.Node == "" {
		err = errors.New("peers does not say who this node is")
	}
	s.nodes[self.Node] = true
	return err
}

// strange boots a host of another mesh, which has all that is looked for.
func (s *startWorld) strange(ctx context.Context, f findings) (err error) {
	k, err := s.here.Boot(ctx, genome(hereNode, byMulticast, echoCell(hereCell, hereNode), callerCell("", thereCell)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.Down(ctx)) }()
	other, err := s.foreign.Boot(ctx, genome(foreignNode, byMulticast, echoCell(thereCell, foreignNode)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, other.Down(ctx)) }()
	state := ""
	_, err = until(ctx, callWithin, "a foreign host is seen", func() (bool, error) {
		_, list, err := peersOf(ctx, k)
		for _, p := range list {
			state = p.State
		}
		return state == "foreign" && len(list) == 1, err
	})
	if err != nil {
		return err
	}
	if err := load(ctx, k, netprobe.Plan{Cell: thereCell, Callers: 1, Calls: 3, MS: 1000}); err != nil {
		return err
	}
	r, err := unload(ctx, k)
	if err != nil {
		return err
	}
	f.add("start-foreign", state == "foreign" && r.OK == 0, "%s, %d", state, r.OK)
	return s.note(ctx, other)
}

// secrets lists what of the mesh frames give away.
func (s *startWorld) secrets(frames []netlab.Frame) (found []string) {
	words := map[string][]byte{}
	for _, w := range []string{hereNode, thereNode, foreignNode, hereCell, thereCell, "caller"} {
		words[w] = []byte(w)
	}
	for node := range s.nodes {
		id := sdk.NodeID(node)
		words["raw key"], words["id"] = id.Key(), []byte(node)
		words["hexadecimal key"] = fmt.Appendf(nil, "%x", id.Key())
		for what, text := range words {
			if len(netlab.Holding(frames, text)) > 0 {
				found = append(found, what)
			}
		}
	}
	return found
}
