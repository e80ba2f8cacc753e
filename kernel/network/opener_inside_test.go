package network

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/kernel/peers"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// fellow is another node of a mesh.
type fellow struct {
	id   *identity.Identity
	mesh *identity.Mesh
}

func (f fellow) Self() *identity.Identity { return f.id }
func (f fellow) Mesh() *identity.Mesh     { return f.mesh }
func (f fellow) Boot() ([16]byte, error)  { return [16]byte{7: 1}, nil }

// A recording of another day brings nobody back, whether it is heard for the
// first time or was opened when it was new; that is said once.
func TestAnnouncementsOfAnotherDayDoNotCount(t *testing.T) {
	store, err := identity.OpenStore(t.TempDir() + "/mesh")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	id, err := store.Identity("other")
	if err != nil {
		t.Fatal(err)
	}
	f := fellow{id, identity.NewMesh()}
	var log strings.Builder
	table := peers.New(peers.Options{Self: "nobody", Wire: wire.Major, Transports: []string{"quic"}})
	n := New(Options{Peers: table, Member: f, Log: slog.New(slog.NewTextHandler(&log, nil))})
	table.SourceUp("test")
	o := newOpener(n, "test")
	said := func(seq uint64, at time.Time) sdk.Event {
		t.Helper()
		list, err := f.mesh.Announce(id, identity.Announcement{
			Boot: [16]byte{7: 1}, Seq: seq, At: at, TTL: beatLife, Wire: wire.Major, Name: "other",
			Listeners: []identity.Listener{{Scheme: "quic", Port: 9000}},
			Cells:     []identity.AnnouncedCell{{Name: "store", Replicas: 1, Listeners: 1}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return sdk.Event{Kind: sdk.EventSeen, Origin: "10.0.0.7:9099", Envelope: list[0]}
	}
	old := said(1, time.Now().Add(-identity.CertificateSlack-time.Minute))
	o.saw(old)
	o.saw(old)
	if rows := table.Nodes(); len(rows) != 0 {
		t.Errorf("a recording of the day before is believed: %+v", rows)
	}
	if n := strings.Count(log.String(), "another day"); n != 1 {
		t.Errorf("it was said %d times, want once:\n%s", n, log.String())
	}
	o.saw(said(2, time.Now()))
	if rows := table.Nodes(); len(rows) != 1 || !rows[0].Routable {
		t.Errorf("after an announcement of now: %+v", rows)
	}
}
