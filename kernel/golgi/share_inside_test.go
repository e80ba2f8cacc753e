package golgi

import (
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

// Of what a node may use, the process that works for it gets most, the others
// enough to begin, and all of them together no more than there is: what is used
// and not on a bill yet counts, whoever has used it.
func TestWhoWorksGetsMostOfALease(t *testing.T) {
	const node, room = sdk.NodeID("far"), 8 * sdk.OneATP
	g := New(Options{})
	defer g.Close()
	g.metered = true
	var seats []*seat
	for i := range 4 {
		s := g.newSeat(Replica{Cell: "worker", Index: i + 1}, channel.Welcome{}, nil)
		s.billed = make(map[sdk.NodeID]int64)
		g.seats[s], seats = struct{}{}, append(seats, s)
		g.links[uint64(i)] = &link{to: s, foreign: &foreign{node: node, admitted: true}}
	}
	limits := func() (sum int64, each []int64) {
		g.Lease(node, room, time.Now().Add(time.Second), "", true)
		for _, s := range seats {
			each = append(each, s.grants[node].LimitNS-s.used[node])
			sum += each[len(each)-1]
		}
		return sum, each
	}
	all := int64(room) * 1000
	sum, each := limits()
	for _, n := range each {
		if sum > all || n < all/4-1 {
			t.Fatalf("of %d, before anybody worked: %v", all, each)
		}
	}
	for range 10 { // the first works; half of it is on a bill
		seats[0].used[node] += all / 20
		seats[0].billed[node] = seats[0].used[node] - all/4
		sum, each = limits()
	}
	left := all - all/4
	if sum > left || each[0] < left*3/4 || each[1] < left/20 {
		t.Errorf("of %d the one that works has %d, the others %v", left, each[0], each[1:])
	}
	for range 30 { // then the second; nothing more is on a bill
		seats[1].used[node] += all / 100
		sum, each = limits()
	}
	left -= 30 * (all / 100)
	if sum > left || each[1] < left*3/4 {
		t.Errorf("of %d the one that works now has %d, all %v", left, each[1], each)
	}
	seats[1].used[node] += all
	if sum, each := limits(); sum != 0 {
		t.Errorf("when more than all is used: %v", each)
	}
	for i := range seats {
		delete(g.links, uint64(i))
		delete(g.seats, seats[i])
	}
}

// What a process used and is on no bill counts also when it has ended, until it
// is on one: of a reading that began before the end it is not.
func TestUseOfAProcessThatHasEndedCountsUntilItIsBilled(t *testing.T) {
	const node, room, part = sdk.NodeID("far"), 8 * sdk.OneATP, int64(sdk.OneATP) * 1000
	g := New(Options{})
	defer g.Close()
	var seats []*seat
	for i := range 3 {
		s := g.newSeat(Replica{Cell: "worker", Index: i + 1}, channel.Welcome{}, nil)
		g.seats[s], seats = struct{}{}, append(seats, s)
	}
	stays := seats[2]
	g.links[0] = &link{to: stays, foreign: &foreign{node: node, admitted: true}}
	want := func(when string, gone int64) {
		t.Helper()
		g.Lease(node, room, time.Now().Add(time.Second), "", true)
		if got := stays.grants[node].LimitNS - stays.used[node]; got != 8*part-gone*part {
			t.Errorf("%s: %d of %d are left, want all but %d", when, got, 8*part, gone*part)
		}
	}
	g.Reading()()
	want("before anybody worked", 0)
	seats[0].used[node] = 3 * part
	g.Reading()() // 3 are on a bill
	seats[0].used[node] += 2 * part
	first := g.Reading() // these 2 will be
	seats[1].used[node] = part
	g.leave(seats[1])
	want("one that had used 1 has ended", 3)
	second := g.Reading()
	first()
	want("what the other used is on a bill", 1)
	seats[0].used[node] += part
	g.leave(seats[0])
	want("it has ended, too, when it had used 1 more", 2)
	second()
	want("what the first used is on a bill", 1)
	third := g.Reading()
	third()
	want("all is", 0)
	if third(); len(g.gone.used) != 0 {
		t.Errorf("%v is kept of who is gone", g.gone.used)
	}
	delete(g.links, 0)
	delete(g.seats, stays)
}
