package membership_test

import (
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/membership"
	"github.com/cellkernel/cellkernel/sdk"
)

// openAt is a door that was opened at an address, with a hint of its own.
func openAt(host string) sdk.Addr {
	return sdk.Addr{Scheme: "quic", Host: host, Hint: []byte("of " + host)}
}

func TestInvitationsSayWhereToKnock(t *testing.T) {
	one, two := openAt("192.0.2.1:9000"), openAt("[2001:db8::1]:9001")
	for _, c := range []struct {
		said []string
		want []string // address, and whose hint it has
	}{
		{nil, []string{"quic://192.0.2.1:9000", one.Host, "quic://[2001:db8::1]:9001", two.Host}},
		{[]string{"home.example"}, []string{"quic://home.example:9000", one.Host}},
		{[]string{"home.example:9001"}, []string{"quic://home.example:9001", two.Host}},
		{[]string{"home.example:443"}, []string{"quic://home.example:443", one.Host}}, // a NAT's port
		{[]string{"quic://[2001:db8::7]:9001"}, []string{"quic://[2001:db8::7]:9001", two.Host}},
		{[]string{"2001:db8::7"}, []string{"quic://[2001:db8::7]:9000", one.Host}},
		{[]string{"tcp://home.example"}, nil},
		{[]string{""}, nil},
		{[]string{":9000"}, nil},
		{[]string{"http/path"}, nil},
	} {
		got, err := membership.ReachableAt([]sdk.Addr{one, two}, c.said)
		if c.want == nil {
			if sdk.CodeOf(err) != sdk.CodeInvalid {
				t.Errorf("%q: got %v, %v, want it refused", c.said, got, err)
			}
			continue
		}
		var flat []string
		for _, a := range got[:min(len(got), len(c.want)/2)] {
			flat = append(flat, a.String(), string(a.Hint)[len("of "):])
		}
		if err != nil || !slices.Equal(flat, c.want) {
			t.Errorf("%q: got %q, %v, want %q", c.said, flat, err, c.want)
		}
	}
	got, err := membership.ReachableAt([]sdk.Addr{one, two}, []string{"home.example", "home.example:9000", "192.0.2.1", "quic://home.example"})
	if err != nil || fmt.Sprint(got) != "[quic://home.example:9000 quic://192.0.2.1:9000 quic://[2001:db8::1]:9001]" {
		t.Errorf("addresses that are said twice: got %v, %v", got, err)
	}
	if _, err := membership.ReachableAt(nil, []string{"home.example"}); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("without a listener: got %v", err)
	}
}

func TestInvitationsNameRealAddresses(t *testing.T) {
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, all := range []string{"0.0.0.0:9000", "[::]:9000"} {
		got, err := membership.ReachableAt([]sdk.Addr{openAt(all)}, nil)
		if err != nil || len(got) == 0 || len(got) > admin.MaxAddresses {
			t.Fatalf("%s: got %v, %v", all, got, err)
		}
		for _, a := range got {
			host, port, err := net.SplitHostPort(a.Host)
			ip := net.ParseIP(host)
			if err != nil || port != "9000" || ip.IsUnspecified() || ip.IsLinkLocalUnicast() || all[0] == '0' && ip.To4() == nil {
				t.Errorf("%s: got %s", all, a)
			}
			if !slices.ContainsFunc(own, func(o net.Addr) bool { n, ok := o.(*net.IPNet); return ok && n.IP.Equal(ip) }) {
				t.Errorf("%s: %s is no address of this machine", all, a)
			}
		}
	}
	var many []sdk.Addr
	for i := range 20 {
		many = append(many, openAt(fmt.Sprintf("192.0.2.1:%d", 9000+i)))
	}
	if got, err := membership.ReachableAt(many, nil); err != nil || len(got) != admin.MaxAddresses {
		t.Errorf("20 listeners: got %d addresses, %v", len(got), err)
	}
}
