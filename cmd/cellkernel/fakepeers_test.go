package main

import (
	"strings"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/admin/admintest"
	"github.com/cellkernel/cellkernel/sdk"
)

// addMates gives a fake kernel a mesh.
func addMates(f *admintest.Fake) {
	desk, lamp := sdk.NodeID(strings.Repeat("a", 52)), sdk.NodeID(strings.Repeat("b", 52))
	f.Mates = admin.Peers{
		Mesh: "lab",
		Self: admin.Peer{Node: desk, Name: "desk-fake", State: admin.PeerSelf},
		Sources: []admin.PeerSource{
			{Name: "lighthouse", Up: true, Synced: true, SinceMS: 61_000, LastMS: 2000, Nodes: 1},
			{Name: "multicast", SinceMS: 3000, LastMS: -1},
		},
		Peers: []admin.Peer{
			{Node: lamp, Name: "lamp", State: admin.PeerVerified, Routable: true, Links: 2, RTTUS: 1500,
				Cells:   []admin.PeerCell{{Name: "store", Replicas: 3}},
				Addrs:   []string{"quic://10.0.0.2:9000", "quic://[2001:db8::2]:9000"},
				Origins: []admin.PeerOrigin{{Source: "lighthouse", Addr: "10.0.0.2:9099", AgeMS: 2000}}},
			{Node: desk, Name: "left", State: admin.PeerGone},
			{State: admin.PeerForeign, MeshTag: "0102030405060708", Origins: []admin.PeerOrigin{{Source: "multicast", Addr: "10.0.0.3:9099"}}},
		},
	}
	pulse := admin.Pulse{Node: lamp, Name: "lamp", Path: "quic://10.0.0.2:9000"}
	first, second := pulse, pulse
	first.RTTUS, first.ConnectUS, second.RTTUS = 1000, 20_000, 3000
	f.Pulses = []admin.Pulse{first, second}
	f.Why = admin.Explanation{
		Code: "denied", Summary: `all who serve "store" refuse`,
		Rules: []admin.ExplainRule{{Key: "peers", Text: "node x is not among them"}},
		Endpoints: []admin.ExplainTarget{{
			Kind: "node", Cell: "store", Node: lamp, NodeName: "lamp", Replicas: 3, Secured: true,
			FoundBy: []admin.PeerOrigin{{Source: "lighthouse", Addr: "10.0.0.2:40123", AgeMS: 2000, NATPort: 9099}},
			Tries:   []admin.ExplainTry{{Addr: "quic://10.0.0.2:9000", TookUS: 7000, Code: "denied", Error: "refused"}},
		}},
		Found: &admin.ExplainMethod{Methods: []string{"Store.Get"}},
	}
}
