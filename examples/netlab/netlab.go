// Package netlab is a small network in one machine, for tests and examples of
// several hosts. A host is a network namespace of Linux with one network card;
// its cable ends at a switch, which is a bridge in a namespace of its own.
// Programs run on a host as real processes with real sockets, and the lab
// breaks the network under them:
//
//	lab := netlab.New(t)
//	a, b := lab.Host("a", netlab.V4|netlab.V6), lab.Host("b", netlab.V4|netlab.V6)
//	a.Start(exec.Command("cellkernel", "up", "genome.toml"))
//	b.Shape(netlab.Cable{Delay: 2 * time.Millisecond, Rate: 100e6, Loss: 0.005})
//	lab.Partition([]*netlab.Host{a}, []*netlab.Host{b})
//
// A lab leaves nothing behind, even if its process is killed. Namespaces have
// no names: they live as long as a thread of this process or a program on the
// host is in them, and programs are killed by the kernel of the machine when
// this process ends. Nothing outside is touched or reachable: a host knows
// only the lab's network, and there is no way out of it.
//
// What is one per machine stays so: hosts share files, process ids and the
// clock, and Unix sockets that have a path. /sys/class/net shows the cards of
// the machine, not those of the host; netlink, /proc/net and /proc/sys/net are
// the host's own.
package netlab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
)

// ErrUnavailable is why there can be no lab here: no rights, or a program or
// device is missing. The text of the error that wraps it says which.
var ErrUnavailable = errors.New("network lab is unavailable")

// maxHosts is how many hosts fit the addresses and one bridge with ease.
const maxHosts = 200

// bridgeName is the switch as its namespace knows it.
const bridgeName = "switch"

// A Lab is a switch with hosts. Its methods, and those of its hosts, may be
// called concurrently.
type Lab struct {
	hub *space // where the switch is

	mu     sync.Mutex // guards what follows and orders all changes of the network
	bridge netlink.Link
	hosts  []*Host
	split  [][]*Host // the groups of Partition
	closed bool
}

// Open makes a lab without hosts. The caller closes it.
func Open() (*Lab, error) {
	hub, err := newSpace()
	if err != nil {
		return nil, fmt.Errorf("open network lab: %w", err)
	}
	l := &Lab{hub: hub}
	if err := hub.do(l.plugIn); err != nil {
		return nil, errors.Join(fmt.Errorf("open network lab: %w", err), hub.close())
	}
	return l, nil
}

// plugIn sets the switch up; it runs in its namespace.
func (l *Lab) plugIn() error {
	// The switch only forwards: it has no addresses, asks for none, and runs no
	// filter but ours over what it forwards.
	for name, value := range map[string]string{
		"ipv6/conf/all/disable_ipv6":     "1",
		"ipv6/conf/default/disable_ipv6": "1",
		"bridge/bridge-nf-call-iptables": "0", "bridge/bridge-nf-call-ip6tables": "0", "bridge/bridge-nf-call-arptables": "0",
	} {
		if err := sysctl(name, value); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	var err error
	l.bridge, err = addBridge(bridgeName)
	return err
}

// addBridge makes a bridge that floods multicast to all ports, as a switch
// without IGMP snooping does.
func addBridge(name string) (netlink.Link, error) {
	no := false
	b := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs(), MulticastSnooping: &no}
	b.Name = name
	if err := netlink.LinkAdd(b); err != nil {
		return nil, fmt.Errorf("make bridge %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(b); err != nil {
		return nil, fmt.Errorf("start bridge %s: %w", name, err)
	}
	return b, nil
}

// sysctl sets a variable of the namespace the calling thread is in.
func sysctl(name, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0)
}

// Hosts returns the hosts in the order they were made.
func (l *Lab) Hosts() []*Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.hosts)
}

// Partition cuts the network: hosts of different groups no longer reach each
// other. Hosts in no group are reached by all. It replaces the partition
// before; connections stay open and time out, as on a real network.
func (l *Lab) Partition(groups ...[]*Host) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.split
	l.split = slices.Clone(groups)
	if err := l.filter(); err != nil {
		l.split = old
		return fmt.Errorf("partition network: %w", err)
	}
	return nil
}

// Heal ends the partition.
func (l *Lab) Heal() error { return l.Partition() }

// Close kills the programs that still run on hosts, waits until they are gone,
// and removes hosts and switch. A second call does nothing.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	var errs []error
	for _, h := range l.hosts {
		if h.box != nil {
			errs = append(errs, h.box.halt()) // the rest goes with the namespace
		}
		errs = append(errs, h.space.close())
	}
	if err := errors.Join(append(errs, l.hub.close())...); err != nil {
		return fmt.Errorf("close network lab: %w", err)
	}
	return nil
}
