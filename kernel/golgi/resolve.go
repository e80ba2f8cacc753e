package golgi

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

const maxNeeds = 1024 // names one process may ask for

// need subscribes a process to the endpoints of a name. The caller holds mu.
func (g *Golgi) need(s *seat, name sdk.CellName) error {
	if len(s.needs) >= maxNeeds {
		return fmt.Errorf("asked for more than %d names", maxNeeds)
	}
	s.needs[name] = true
	g.tell(s, name)
	return nil
}

// push tells everybody who needs it that the endpoints of cell have changed.
// The caller holds mu.
func (g *Golgi) push(cell sdk.CellName) {
	for s := range g.seats {
		for name := range s.needs {
			if targets, _ := g.resolve(s, name); slices.ContainsFunc(targets, func(t target) bool { return t.cell == cell && t.dir == "" }) {
				g.tell(s, name)
			}
		}
	}
}

// A target is where a name leads: to a cell of this kernel, to one replica of
// it, or to a cell of the kernel that runs in dir.
type target struct {
	cell    sdk.CellName
	replica int // 0 is any
	dir     string
}

// junctionLinks is how many links a caller keeps through a junction: the other
// kernel gives each to its least linked replica.
const junctionLinks = 4

// junctionPrefix marks endpoints of other kernels on this machine.
const junctionPrefix = "junction:"

// resolve returns the targets of a name as s uses it. The caller holds mu.
func (g *Golgi) resolve(s *seat, name sdk.CellName) ([]target, *sdk.Error) {
	if s.free {
		cell, num, one := strings.Cut(string(name), "#")
		t := target{cell: sdk.CellName(cell)}
		if n, err := strconv.Atoi(num); one && err == nil {
			t.replica = n
		}
		if _, ok := g.routes[t.cell]; !ok {
			return nil, sdk.Errorf(sdk.CodeNotFound, "resolve %q: no such cell", name)
		}
		return []target{t}, nil
	}
	r := g.routes[s.id.Cell]
	if dir, ok := r.Junctions[name]; ok {
		return []target{{cell: name, dir: dir}}, nil
	}
	if cells, ok := r.Axons[name]; ok {
		var out []target
		for _, c := range cells {
			if g.allowed(s, c) {
				out = append(out, target{cell: c})
			}
		}
		if len(out) == 0 && len(cells) > 0 {
			return nil, sdk.Errorf(sdk.CodeDenied, "resolve %q: cell %q does not allow %q to call it", name, cells[0], s.id.Cell)
		}
		return out, nil
	}
	if name == s.id.Cell {
		return []target{{cell: name}}, nil
	}
	return nil, sdk.Errorf(sdk.CodeNotFound, "resolve %q: cell %q has no axon of that name", name, s.id.Cell)
}

// tell sends a process the endpoints of a name. The caller holds mu.
func (g *Golgi) tell(s *seat, name sdk.CellName) {
	m := channel.Message{Type: channel.TypeEndpoints, Name: name}
	targets, failure := g.resolve(s, name)
	if failure != nil {
		m.Failure = channel.FailureOf(failure)
		s.put(m, nil)
		return
	}
	m.Endpoints = &channel.Endpoints{}
	for _, t := range targets {
		if t.dir != "" {
			m.Endpoints.Remote = append(m.Endpoints.Remote, channel.RemoteEndpoint{
				ID: junctionPrefix + t.dir + "/" + string(t.cell), Replicas: junctionLinks,
			})
			continue
		}
		for other := range g.byName[t.cell] {
			if other != s && (t.replica == 0 || t.replica == other.id.Index) {
				m.Endpoints.Local = append(m.Endpoints.Local, other.endpoint())
			}
		}
	}
	slices.Sort(m.Endpoints.Local)
	s.put(m, nil)
}

// allowed reports whether s may call a cell of this kernel. The caller holds mu.
func (g *Golgi) allowed(s *seat, cell sdk.CellName) bool {
	allow := g.routes[cell].Allow
	return s.free || allow == nil || allow[s.id.Cell]
}

// byEndpoint finds the process behind "worker#2@7". The caller holds mu.
func (g *Golgi) byEndpoint(endpoint string) *seat {
	cell, _, _ := strings.Cut(endpoint, "#")
	for s := range g.byName[sdk.CellName(cell)] {
		if s.endpoint() == endpoint {
			return s
		}
	}
	return nil
}

// leastLinked returns the replica of a cell that answers the fewest links,
// never one that is not itself. The caller holds mu.
func (g *Golgi) leastLinked(cell sdk.CellName) *seat {
	var best *seat
	for s := range g.byName[cell] {
		if best == nil || s.served < best.served || s.served == best.served && s.id.Index < best.id.Index {
			best = s
		}
	}
	return best
}
