package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

const (
	// wantBuffer is what quic-go asks the system for, and rounded up what its
	// documentation says to allow: 7.5 MiB.
	wantBuffer = 7 << 20
	giveBuffer = 7_864_320
	// echoLimit bounds the wait for a datagram that never leaves the machine.
	echoLimit = 500 * time.Millisecond
)

// multicastGroup is that of discovery-multicast.
var multicastGroup = [4]byte{239, 255, 0, 1}

// checkMulticast joins the group on the loopback interface alone, sends itself
// a datagram that no router and no card would pass on, and looks for
// interfaces by which others could be heard: those that the genome names, or all.
func (p *patient) checkMulticast(ctx context.Context) finding {
	f := finding{Check: "multicast", State: doctorOK}
	if err := echoMulticast(ctx); err != nil {
		f.State, f.Detail = doctorWarn, "not here: "+err.Error()
		f.Fix = "use discovery-lighthouse, or addresses in axons"
		return f
	}
	var able []string
	named := p.multicastNames()
	fits := func(i net.Interface) bool {
		return len(named) == 0 || slices.ContainsFunc(named, func(n string) bool { ok, _ := path.Match(n, i.Name); return ok })
	}
	list, err := net.Interfaces()
	for _, i := range list {
		if fits(i) && i.Flags&net.FlagUp != 0 && i.Flags&net.FlagMulticast != 0 && i.Flags&net.FlagLoopback == 0 {
			able = append(able, i.Name)
		}
	}
	switch {
	case err != nil:
		f.State, f.Detail = doctorWarn, err.Error()
	case len(able) == 0 && len(named) > 0:
		f.State, f.Detail = doctorWarn, fmt.Sprintf("no interface that is up has it and is one of %q, as the genome wants", named)
		f.Fix = "ip link   # lists them; then plugins." + multicastSection + ".interfaces in genome.toml"
	case len(able) == 0:
		f.State, f.Detail, f.Fix = doctorWarn, "no interface that is up has it, but the loopback", "ip link set dev DEVICE up multicast on"
	default:
		f.Detail = "datagrams come back; others can be heard by " + strings.Join(able, ", ")
	}
	return f
}

// multicastSection is where a genome configures the discovery by multicast.
const multicastSection = "discovery-multicast"

// multicastNames lists the names and patterns of interfaces that the genome
// has it use; none is all.
func (p *patient) multicastNames() []string {
	if p.genome == nil {
		return nil
	}
	list, _ := p.genome.Plugins[multicastSection].Config["interfaces"].([]any)
	var names []string
	for _, e := range list {
		if s, ok := e.(string); ok { // the check of the section has refused others
			names = append(names, s)
		}
	}
	return names
}

func echoMulticast(ctx context.Context) error {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return err
	}
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{})
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		m := &unix.IPMreqn{Multiaddr: multicastGroup, Ifindex: int32(lo.Index)}
		inner = errors.Join(
			os.NewSyscallError("join the group", unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, m)),
			os.NewSyscallError("choose the interface", unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_IF, m)),
			os.NewSyscallError("keep it here", unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 0)),
			os.NewSyscallError("hear it", unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 1)),
		)
	})
	if err := errors.Join(err, inner); err != nil {
		return err
	}
	said := make([]byte, 16)
	rand.Read(said) // never fails: see package crypto/rand
	port := conn.LocalAddr().(*net.UDPAddr).Port
	if _, err := conn.WriteToUDP(said, &net.UDPAddr{IP: multicastGroup[:], Port: port}); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(echoLimit)); err != nil {
		return err
	}
	for heard := make([]byte, 64); ; {
		n, _, err := conn.ReadFromUDP(heard)
		if err != nil {
			return fmt.Errorf("a datagram to itself does not come back: %w", err)
		}
		if bytes.Equal(heard[:n], said) {
			return nil
		}
	}
}

// checkBuffers looks at what a socket may buffer.
func checkBuffers() finding {
	f := finding{Check: "buffers", State: doctorOK}
	var small []string
	for _, key := range []string{"rmem_max", "wmem_max"} {
		text, err := os.ReadFile("/proc/sys/net/core/" + key)
		if err != nil {
			return finding{Check: "buffers", State: doctorWarn, Detail: "read net.core." + key + ": " + err.Error()}
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err != nil {
			return finding{Check: "buffers", State: doctorWarn, Detail: "read net.core." + key + ": " + err.Error()}
		}
		if n < wantBuffer {
			small = append(small, fmt.Sprintf("net.core.%s is %s", key, bytesText(n)))
		}
	}
	if len(small) == 0 {
		f.Detail = "UDP sockets may buffer what quic asks for, " + bytesText(wantBuffer)
		return f
	}
	f.State, f.Detail = doctorWarn, fmt.Sprintf("%s, quic asks for %s: fast transfers lose packets", strings.Join(small, ", "), bytesText(wantBuffer))
	f.Fix = fmt.Sprintf("sysctl -w net.core.rmem_max=%d net.core.wmem_max=%d", giveBuffer, giveBuffer)
	return f
}

// checkPorts looks whether the ports of the genome can be had, or are those
// of its kernel.
func (p *patient) checkPorts() []finding {
	if p.genome == nil {
		return nil
	}
	var list []finding
	var seen []string
	for _, c := range p.genome.Cells {
		for _, addr := range p.genome.Listeners(c) {
			if !slices.Contains(seen, addr.String()) {
				seen = append(seen, addr.String())
				list = append(list, checkPort(addr, p.self))
			}
		}
	}
	slices.SortFunc(list, func(a, b finding) int { return strings.Compare(a.Detail, b.Detail) })
	if len(list) == 0 {
		return []finding{{Check: "ports", State: doctorOK, Detail: "no cell listens for other machines"}}
	}
	return list
}

func checkPort(addr sdk.Addr, self *admin.Peer) finding {
	f := finding{Check: "ports", State: doctorOK}
	_, port, err := net.SplitHostPort(addr.Host)
	if err != nil || addr.Scheme != "quic" {
		f.Detail = addr.String() + " is for its transport to judge"
		return f
	}
	if self != nil && slices.ContainsFunc(self.Addrs, func(held string) bool { return strings.HasSuffix(held, ":"+port) }) {
		f.Detail = addr.String() + " is held by the kernel of this genome"
		return f
	}
	conn, err := net.ListenPacket("udp", addr.Host)
	if err == nil {
		conn.Close()
		f.Detail = addr.String() + " is free"
		return f
	}
	f.State, f.Detail = doctorFail, addr.String()+": "+err.Error()
	f.Fix = fmt.Sprintf("ss -lunp 'sport = :%s'   # says who has it; or cellkernel up --set golgi.listen=HOST:PORT", port)
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		f.Fix = "ip addr   # lists the addresses of this machine; then cellkernel up --set golgi.listen=HOST:PORT"
	}
	return f
}
