package multicastdiscovery_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// ip runs ip(8), in this process's own namespace unless -n names another.
func ip(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// A lan is a bridge; its hosts are namespaces.
type lan struct {
	t      *testing.T
	bridge string
	hosts  int
}

func newLAN(t *testing.T) *lan {
	needNamespace(t)
	l := &lan{t: t, bridge: "br" + unique()}
	ip(t, "link", "add", l.bridge, "type", "bridge", "mcast_snooping", "0")
	t.Cleanup(func() { ip(t, "link", "del", l.bridge) })
	// Only its hosts speak here: this end has no address.
	ip(t, "link", "set", l.bridge, "addrgenmode", "none")
	ip(t, "link", "set", l.bridge, "up")
	return l
}

func unique() string { return strings.ToLower(rand.Text()[:8]) }

// A machine is a namespace.
type machine struct {
	t    *testing.T
	lan  *lan
	name string
}

func (l *lan) machine() *machine {
	l.hosts++
	m := &machine{t: l.t, lan: l, name: "mc" + unique()}
	ip(l.t, "netns", "add", m.name)
	l.t.Cleanup(func() { ip(l.t, "netns", "del", m.name) })
	return m
}

func (m *machine) ip(args ...string) {
	m.t.Helper()
	ip(m.t, append([]string{"-n", m.name}, args...)...)
}

// plug connects eth0 to the bridge, with addresses if any are given.
func (m *machine) plug(addrs ...string) *machine {
	m.t.Helper()
	port := "v" + unique()
	ip(m.t, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", m.name)
	ip(m.t, "link", "set", port, "addrgenmode", "none", "master", m.lan.bridge, "up")
	for _, a := range addrs {
		m.ip("addr", "add", a, "dev", "eth0")
	}
	m.ip("link", "set", "eth0", "up")
	return m
}

// A node is a plugin process on a machine, watched.
type node struct {
	t      *testing.T
	client *plugin.Client
	d      sdk.Discovery

	mu     sync.Mutex // guards the fields below
	events []sdk.Event
	lines  []string
	change chan struct{} // closed and replaced at each event and line
}

func (m *machine) start(config map[string]any) *node {
	m.t.Helper()
	self, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	program, err := exec.LookPath("ip")
	if err != nil {
		m.t.Fatal(err)
	}
	n := &node{t: m.t, change: make(chan struct{})}
	ctx, cancel := context.WithTimeout(m.t.Context(), 20*time.Second)
	defer cancel()
	n.client, err = plugin.Start(ctx, plugin.Command{Path: program, Args: []string{"netns", "exec", m.name, self}}, plugin.Options{
		Config: config, Env: []string{serve + "=1"}, Log: func(_ slog.Level, line []byte) {
			n.note(func() { n.lines = append(n.lines, string(line)) })
		},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { n.client.Kill() })
	if n.d, err = n.client.Discovery(); err != nil {
		m.t.Fatal(err)
	}
	go n.d.Watch(m.t.Context(), func(e sdk.Event) { n.note(func() { n.events = append(n.events, e) }) })
	return n
}

func (n *node) note(what func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	what()
	close(n.change)
	n.change = make(chan struct{})
}

// await waits until ok, which is asked with the lock held.
func (n *node) await(what string, ok func() bool) {
	n.t.Helper()
	limit := time.After(20 * time.Second)
	for {
		n.mu.Lock()
		done, change := ok(), n.change
		n.mu.Unlock()
		if done {
			return
		}
		select {
		case <-change:
		case <-limit:
			n.mu.Lock()
			defer n.mu.Unlock()
			n.t.Fatalf("did not see %s; events: %d; log:\n%s", what, len(n.events), strings.Join(n.lines, "\n"))
		}
	}
}

// hears waits for an envelope from an origin that begins so.
func (n *node) hears(e sdk.Envelope, origin string) {
	n.t.Helper()
	n.await(fmt.Sprintf("an envelope from %s", origin), func() bool { return n.heard(e, origin) })
}

func (n *node) heard(e sdk.Envelope, origin string) bool {
	for _, ev := range n.events {
		if ev.Kind == sdk.EventSeen && bytes.Equal(ev.Envelope, e) && strings.HasPrefix(ev.Origin, origin) {
			return true
		}
	}
	return false
}

func (n *node) logs(text string) {
	n.t.Helper()
	n.await(fmt.Sprintf("the line %q", text), func() bool { return n.count(text) > 0 })
}

func (n *node) count(text string) int {
	return strings.Count(strings.Join(n.lines, "\n"), text)
}

func (n *node) say(e ...sdk.Envelope) {
	n.t.Helper()
	if err := n.d.Announce(n.t.Context(), e); err != nil {
		n.t.Fatal(err)
	}
}

// envelope is one of a mesh: the first bytes are its tag.
func envelope(mesh string) sdk.Envelope {
	e := make([]byte, 200)
	rand.Read(e)
	copy(e, envelopeHead(mesh))
	return e
}

func (m *machine) run(args ...string) {
	m.t.Helper()
	if out, err := exec.Command("ip", append([]string{"netns", "exec", m.name}, args...)...).CombinedOutput(); err != nil {
		m.t.Fatalf("%q: %v: %s", args, err, out)
	}
}
