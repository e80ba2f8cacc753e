package multicastdiscovery_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/plugins/discovery-multicast/multicastdiscovery"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

const noNetwork = "no network that can multicast"

func TestTwoHostsHearEachOther(t *testing.T) {
	l := newLAN(t)
	a := l.machine().plug("10.7.0.1/24").start(nil)
	b := l.machine().plug("10.7.0.2/24").start(nil)
	// The bridge learns its ports when they come up; that is not ours.
	ea, eb := envelope("one"), envelope("one")
	a.say(ea)
	b.hears(ea, "10.7.0.1:")
	begun := time.Now()
	b.say(eb)
	a.hears(eb, "10.7.0.2:")
	t.Logf("heard after %v", time.Since(begun))
}

// Who comes later is answered and does not wait for a beat.
func TestANewHostIsAnswered(t *testing.T) {
	l := newLAN(t)
	slow := map[string]any{"beat": "10s"}
	a := l.machine().plug("10.7.0.1/24").start(slow)
	ea := envelope("one")
	a.say(ea)
	late := l.machine().plug("10.7.0.2/24").start(slow)
	begun := time.Now()
	late.say(envelope("one"))
	late.hears(ea, "10.7.0.1:")
	if took := time.Since(begun); took > 8*time.Second {
		t.Errorf("heard after %v: that was a beat, no answer", took)
	} else {
		t.Logf("heard after %v", took)
	}
}

func TestInterfacesComeAndGo(t *testing.T) {
	l := newLAN(t)
	a := l.machine().plug("10.7.0.1/24").start(nil)
	m := l.machine()
	m.ip("link", "set", "lo", "up")
	b := m.start(nil)
	b.logs(noNetwork)
	for range 2 { // the second time it has the same name and is another one
		m.plug("10.7.0.2/24")
		ea, eb := envelope("one"), envelope("one")
		a.say(ea)
		b.say(eb)
		a.hears(eb, "10.7.0.2:")
		b.hears(ea, "10.7.0.1:")
		m.ip("link", "del", "eth0")
	}
	b.await("a warning for each time without", func() bool { return b.count(noNetwork) == 3 })
}

func TestIPv6Only(t *testing.T) {
	l := newLAN(t)
	a := l.machine().plug().start(nil)
	b := l.machine().plug().start(nil)
	ea, eb := envelope("one"), envelope("one")
	a.say(ea)
	b.say(eb)
	a.hears(eb, "[fe80::")
	b.hears(ea, "[fe80::")
	a.await("an origin with its interface", func() bool {
		for _, e := range a.events {
			if e.Origin != "" && !zoned(e.Origin) {
				return false
			}
		}
		return true
	})
}

func zoned(origin string) bool { return strings.Contains(origin, "%eth0]:") }

func TestAddressChange(t *testing.T) {
	l := newLAN(t)
	a := l.machine().plug("10.7.0.1/24").start(nil)
	m := l.machine().plug("10.7.0.2/24")
	b := m.start(nil)
	e := envelope("one")
	b.say(e)
	a.hears(e, "10.7.0.2:")
	m.ip("addr", "del", "10.7.0.2/24", "dev", "eth0")
	m.ip("addr", "add", "10.7.0.3/24", "dev", "eth0")
	a.hears(e, "10.7.0.3:")
}

// A host without any interface is served, with one warning, and works when it
// gets one.
func TestNoNetworkAtAll(t *testing.T) {
	m := newLAN(t).machine()
	a, b := m.start(nil), m.start(nil)
	e := envelope("one")
	a.say(e)
	a.await("synced", func() bool { return len(a.events) == 1 })
	if a.logs("no interface that can multicast"); a.count("WARN") != 1 {
		t.Errorf("it complained more than once:\n%v", a.lines)
	}
	m.ip("link", "set", "lo", "up")
	b.hears(e, "127.0.0.1:")
}

// Only what is sent to the group arrives.
func TestUnicastIsNotHeard(t *testing.T) {
	m := newLAN(t).machine()
	m.ip("link", "set", "lo", "up")
	a, b := m.start(nil), m.start(nil)
	direct, e := envelope("one"), envelope("one")
	m.run("env", sender+"="+hex.EncodeToString(direct), os.Args[0])
	a.say(e)
	b.hears(e, "127.0.0.1:")
	if b.heard(direct, "") {
		t.Error("heard a datagram to an address")
	}
}

// A real flood, as fast as one process can: the plugin does not grow, and who
// was there is heard on.
func TestFloodOverTheNetwork(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some seconds")
	}
	l := newLAN(t)
	config := map[string]any{"beat": "500ms"}
	a := l.machine().plug("10.7.0.1/24").start(config)
	b := l.machine().plug("10.7.0.2/24").start(config)
	a.say(envelope("one"))
	for range 8 { // until it is settled
		e := envelope("one")
		b.say(e)
		a.hears(e, "10.7.0.2:")
		time.Sleep(500 * time.Millisecond)
	}
	before := memory(t, a.client.Info().PID)
	evil := l.machine().plug("10.7.0.3/24")
	evil.ip("route", "add", "default", "dev", "eth0")
	evil.run("env", flooder+"=300000", os.Args[0])
	if grown := memory(t, a.client.Info().PID) - before; grown > 32<<10 && !raced {
		t.Errorf("the plugin grew by %d KiB", grown)
	} else {
		t.Logf("the plugin grew by %d KiB", grown)
	}
	e := envelope("one")
	b.say(e)
	a.hears(e, "10.7.0.2:")
}

// memory returns the resident KiB of a process.
func memory(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Nothing is left of a plugin that was closed; goroutines are counted at the
// end of all tests.
func TestDescriptors(t *testing.T) {
	needNamespace(t)
	cycle := func() {
		c, err := plugin.Pipe(t.Context(), multicastdiscovery.Plugin(), plugin.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Kill()
		d, err := c.Discovery()
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Announce(t.Context(), []sdk.Envelope{envelope("one")}); err != nil {
			t.Fatal(err)
		}
		if err := c.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	cycle() // the runtime and the libraries open some for good
	before := descriptors(t)
	for range 10 {
		cycle()
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
