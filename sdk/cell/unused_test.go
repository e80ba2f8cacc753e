package cell_test

import (
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk/channel"
)

// A link to another node that came too late is nobody's: the kernel has to
// know, or it counts as one that is up for ever.
func TestTheKernelHearsOfLinksThatNobodyWaitsFor(t *testing.T) {
	p := puppet(t)
	p.link(t, 4711, channel.Link{Cell: "store", Outgoing: true})
	select {
	case id := <-p.ends:
		if id != 1 {
			t.Errorf("link %d is over", id)
		}
	case <-time.After(patience):
		t.Fatal("the kernel does not hear of it")
	}
}
