package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
	"github.com/cellkernel/cellkernel/examples/acceptance/netprobe"
	"github.com/cellkernel/cellkernel/examples/netlab"
)

// network is what happens between machines. "net" names all of its groups.
func network() []group {
	return slices.Concat(netBegin(), netTrouble(), netHostile(), netLoad())
}

func netBegin() []group {
	return []group{
		{"net-start", 30 * time.Minute, []row{
			{ID: "start-multicast", What: "20 cold starts of a second host, multicast only: exec to first call, to it and by it, the worst", Bound: "<= 3 s"},
			{ID: "start-lighthouse", What: "the same, lighthouse only", Bound: "<= 3 s"},
			{ID: "start-static", What: "the same, addresses in the genome only", Bound: "<= 3 s"},
			{ID: "start-foreign", What: "a third host that is of another mesh: peers says so, and calls nothing of it", Bound: "foreign, 0"},
			{ID: "start-secret", What: "frames with the name of a cell, of a node, or a node's key", Bound: "0"},
		}, tryStart},
		{"net-swap", 20 * time.Minute, []row{
			{ID: "swap-calls", What: "20 swaps of multicast and lighthouse at 2000 calls/s, one of 20 over a new link, not half: both ends use 6 ms of CPU for one, two cores open 250/s: failed calls", Bound: "0, 2000/s"},
			{ID: "swap-start", What: "a host started during each: exec to first call, the worst", Bound: "<= 3 s"},
			{ID: "swap-kill", What: "a host killed during each: out of routing, the worst", Bound: "<= 10 s"},
			{ID: "swap-table", What: "looks at the tables of two hosts, of which one swaps, every 10 ms: one that is up was missing", Bound: "0"},
			{ID: "swap-refused", What: "discoveries that do not start or see nothing, by swap and by up: refused by name, the old one stays", Bound: "3 of 3, 0"},
		}, trySwap},
		{"net-transport", 5 * time.Minute, []row{
			{ID: "swap-dialler", What: "transport-quic of the caller replaced by an edited genome, 400 calls/s, one of 8 over a new link: failed calls", Bound: "0"},
			{ID: "swap-listener", What: "the same, of the node that is called", Bound: "0"},
			{ID: "swap-program", What: "transport-quic of both swapped for a program: failed calls", Bound: "0"},
		}, tryTransport},
	}
}

func netTrouble() []group {
	return []group{
		{"net-cut", 15 * time.Minute, []row{
			{ID: "cut-heal", What: "network cut for 30 s under 200 calls/s: first call after it", Bound: "<= 5 s"},
			{ID: "cut-twice", What: "the same: calls of a method that may not be repeated and were", Bound: "0"},
			{ID: "cut-typed", What: "the same: errors that are neither unavailable nor deadline", Bound: "0"},
			{ID: "cut-late", What: "the same: calls outlive their deadline by", Bound: "<= 100 ms"},
			{ID: "silent-cable", What: "a host whose cable is cut: out of routing", Bound: "<= 10 s"},
			{ID: "silent-killed", What: "a host all whose processes are killed: out of routing", Bound: "<= 10 s"},
			{ID: "restart-noticed", What: "the same, started again at once: from its first announcement to the answer of a call that was made before over what was a link to it, the worst of 10", Bound: "<= 500 ms"},
			{ID: "loss-first", What: "20 % loss each way: exec of the other host to the first call, the worst of 5", Bound: "<= 10 s"},
			{ID: "loss-calls", What: "the same: 1000 calls that end well within 5 s", Bound: ">= 99 %"},
		}, tryCut},
		{"net-forged", 10 * time.Minute, []row{
			{ID: "forged-route", What: "1000000 announcements replayed, altered and made up, 20000/s from 40000 addresses and those of the nodes: calls that fail or go elsewhere", Bound: "0"},
			{ID: "forged-verified", What: "the same: looks at the tables of both hosts, every 100 ms, in which the other was missing", Bound: "0"},
			{ID: "forged-table", What: "the same: rows in a table, at most", Bound: "<= 257"},
			{ID: "forged-memory", What: "the same: memory more of kernel and plugins", Bound: "<= 32 MiB"},
			{ID: "forged-p99", What: "the same: p99 of calls by that before", Bound: "<= 2 x"},
		}, tryForged},
		{"net-move", 5 * time.Minute, []row{
			{ID: "move-caller", What: "three changes of the caller's address at 400 calls/s: failed calls", Bound: "0"},
			{ID: "move-called", What: "the same, of the host that is called", Bound: "0"},
		}, tryMove},
		{"net-six", 2 * time.Minute, []row{
			{ID: "ipv6-calls", What: "hosts with IPv6 alone: failed calls, half over new links", Bound: "0"},
		}, trySix},
	}
}

func netLoad() []group {
	return []group{
		{"net-balance", 5 * time.Minute, []row{
			{ID: "balance-work", What: "4 replicas on each of two hosts, concurrency 1, 20 ms a call, 64 in flight: answered by either", Bound: "40-60 %"},
			{ID: "balance-echo", What: "echoes of 64 B, 8 in flight: answered on the caller's host", Bound: ">= 95 %"},
		}, tryBalance},
		{"net-link", 3 * time.Minute, []row{
			{ID: "link-rate", What: "100 Mbit/s, 2 ± 2 ms, 0.5 % lost: calls/s of 64 B, 256 in flight, for 30 s", Bound: ">= 10000"},
			{ID: "link-errors", What: "the same: failed calls", Bound: "0"},
		}, tryLink},
	}
}

// A world is a network with kernels of one mesh.
type world struct {
	*netlab.Lab
	lab *lab.Lab
}

func newWorld(l *lab.Lab) (*world, error) {
	n, err := netlab.Open()
	if err != nil {
		return nil, err
	}
	return &world{n, l}, nil
}

// end ends the world; a mistake at that is one of the group.
func (w *world) end(err *error) { *err = errors.Join(*err, w.Close()) }

// site adds a host with the lab's secret.
func (w *world) site(name string) (*lab.Site, error) { return w.siteOf(name, netlab.V4, nil) }

func (w *world) siteOf(name string, family netlab.Family, secret []byte) (*lab.Site, error) {
	h, err := w.Host(name, family)
	if err != nil {
		return nil, err
	}
	return w.lab.NewSite(h, secret)
}

// sites adds several hosts.
func (w *world) sites(names ...string) ([]*lab.Site, error) {
	var list []*lab.Site
	for _, name := range names {
		s, err := w.site(name)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

// lighthouse starts a lighthouse on a host of its own and returns its address.
func (w *world) lighthouse(name string) (addr string, end func(), err error) {
	h, err := w.Host(name, netlab.V4)
	if err != nil {
		return "", nil, err
	}
	addr = h.Addr(netlab.V4).String() + ":9443"
	cmd := exec.Command(w.lab.Command, "lighthouse", "--listen", addr)
	if err := h.Start(cmd); err != nil {
		return "", nil, err
	}
	return addr, func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // by that
	}, nil
}

// The discoveries of a genome.
const (
	byMulticast = "[golgi]\ndiscovery = [\"multicast\"]\n"
	byNothing   = "[golgi]\ndiscovery = []\n"
)

func byLighthouse(addr string) string {
	return "[golgi]\ndiscovery = [\"lighthouse\"]\n" + lighthouseAt(addr)
}

func lighthouseAt(addr string) string {
	return fmt.Sprintf("[plugins.discovery-lighthouse]\nservers = [%q]\n", addr)
}

// genome is one of a node in the lab's mesh. golgi is where its section golgi
// and those of plugins are.
func genome(node, golgi string, cells ...string) string {
	return fmt.Sprintf("[kernel]\nmesh = %q\nnode = %q\n%s%s", lab.MeshName, node, golgi, strings.Join(cells, ""))
}

// echoCell is a cell that other machines call.
func echoCell(name, by string, more ...string) string {
	return fmt.Sprintf("[cells.%s]\ncommand = [\"BIN/echo\", \"-by\", %q]\nlisten = true\n%s\n", name, by, strings.Join(more, "\n"))
}

// callerCell is the cell "caller" with axons: "back" or "10.0.0.1:9000/back".
func callerCell(args string, axons ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[cells.caller]\ncommand = [\"BIN/caller\"%s]\n", args)
	for _, a := range axons {
		fmt.Fprintf(&b, "axons.%s = { to = [\"axon://%s\"], wait = false }\n", a[strings.LastIndexByte(a, '/')+1:], a)
	}
	return b.String()
}

// load starts a load of a kernel's caller.
func load(ctx context.Context, k *lab.Kernel, p netprobe.Plan) error {
	return k.Call(ctx, "caller.Start", p, &netprobe.None{})
}

// unload ends it.
func unload(ctx context.Context, k *lab.Kernel) (*netprobe.Report, error) {
	r := new(netprobe.Report)
	err := k.Call(ctx, "caller.Stop", netprobe.None{}, r)
	if err == nil && r.Calls == 0 {
		err = errors.New("stop load: it made no calls")
	}
	return r, err
}

// goal is the time of the call that a kernel's caller was told to expect.
func goal(ctx context.Context, k *lab.Kernel) (*netprobe.Outcome, error) {
	o := new(netprobe.Outcome)
	if err := k.Call(ctx, "caller.Reached", netprobe.None{}, o); err != nil {
		return nil, err
	}
	if o.Error != "" {
		return nil, fmt.Errorf("first call: %s", o.Error)
	}
	return o, nil
}

// expect has a kernel's caller make a call that waits for somebody to answer.
func expect(ctx context.Context, k *lab.Kernel, cell string, within time.Duration) error {
	return k.Call(ctx, "caller.Expect", netprobe.Goal{Cell: cell, MS: uint32(within.Milliseconds())}, &netprobe.None{})
}

// A peer is a line of "peers -o json".
type peer struct {
	Node     string `json:"node"`
	Name     string `json:"name"`
	State    string `json:"state"`
	Routable bool   `json:"routable"`
	Links    int    `json:"links"`
	Cells    []struct {
		Name string `json:"name"`
	} `json:"cells"`
}

// serves reports whether it is that node, verified, and calls are sent to it,
// if it has a cell to call.
func (p peer) serves(name string) bool {
	return p.Name == name && p.State == "verified" && (p.Routable || len(p.Cells) == 0)
}

// peersOf lists what a kernel sees, and its own line.
func peersOf(ctx context.Context, k *lab.Kernel) (self peer, list []peer, err error) {
	var out struct {
		Self  peer   `json:"self"`
		Peers []peer `json:"peers"`
	}
	if err := k.Get(ctx, "peers", &out); err != nil {
		return peer{}, nil, err
	}
	return out.Self, out.Peers, nil
}

// until looks every few milliseconds until ok or the time is over, and returns
// how long that took.
func until(ctx context.Context, within time.Duration, what string, ok func() (bool, error)) (time.Duration, error) {
	begin := time.Now()
	for {
		done, err := ok()
		if done || err != nil {
			return time.Since(begin), err
		}
		if time.Since(begin) > within {
			return time.Since(begin), fmt.Errorf("wait until %s: not within %s", what, within)
		}
		if err := pause(ctx, 25*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// ms is a duration as rows show it.
func ms(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
