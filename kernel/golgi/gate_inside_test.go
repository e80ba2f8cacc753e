package golgi

import (
	"net"
	"testing"
)

// A remote is a connection from an address.
type remote struct {
	net.Conn
	addr net.Addr
}

func (r remote) RemoteAddr() net.Addr { return r.addr }

func TestStrangersAreToldApartByWhatCostsThem(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.7":              "192.0.2.7",
		"::ffff:192.0.2.7":       "192.0.2.7",
		"2001:db8:1:2ff:1:2:3:4": "2001:db8:1:200::/56",
		"2001:db8:1:2aa:ffff::1": "2001:db8:1:200::/56",
		"2001:db8:1:300::1":      "2001:db8:1:300::/56",
	} {
		c := remote{addr: &net.TCPAddr{IP: net.ParseIP(addr), Port: 4000}}
		if got := sourceOf(c, Door{Name: "tcp://door"}); got != want {
			t.Errorf("%s is %q, want %q", addr, got, want)
		}
		if got := sourceOf(c, Door{}); got != here {
			t.Errorf("%s on this machine is %q", addr, got)
		}
	}
}
