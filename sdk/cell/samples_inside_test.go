package cell

import (
	"bytes"
	"compress/gzip"
	"context"
	"math"
	"runtime/pprof"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

func TestSamplesSayForWhichLinkAProcessWorks(t *testing.T) {
	var s sampler
	if !s.start(0, 0) {
		t.Skip("somebody profiles this test")
	}
	var again sampler
	if again.start(0, 0) {
		t.Error("two samplers at once")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		l := &link{info: channel.Link{ID: 7}, peer: Peer{Cell: "a", Node: sdk.NodeID("n")}}
		pprof.SetGoroutineLabels(labelled(l))
		for begin := processCPU(); processCPU()-begin < int64(500*time.Millisecond); {
			for range 100_000 {
			}
		}
	}()
	<-done
	found, err := s.stop()
	if err != nil {
		t.Fatal(err)
	}
	if n := found.links[7]; n < 10 || n > found.total || len(found.links) != 1 {
		t.Errorf("half a second of work shows as %+v", found)
	}
}

// Who profiles a part of a handler, as package pprof shows it, does not take it
// out of the account.
func TestLabelsOfTheUserAreBesideOurs(t *testing.T) {
	ctx := &callContext{link: &inLink{labels: labelled(&link{info: channel.Link{ID: 7}})}}
	pprof.Do(ctx, pprof.Labels("mine", "1"), func(ctx context.Context) {
		for key, want := range map[string]string{linkLabel: "7", "mine": "1"} {
			if got, _ := pprof.Label(ctx, key); got != want {
				t.Errorf("label %q is %q, want %q", key, got, want)
			}
		}
	})
}

func FuzzParseProfile(f *testing.F) {
	// One sample, packed and not, with the label that counts.
	f.Add([]byte("\x32\x00\x32\x0fcellkernel_link\x32\x017\x12\x0a\x12\x02\x05\x00\x1a\x04\x08\x01\x10\x02"))
	f.Add([]byte("\x32\x00\x32\x0fcellkernel_link\x32\x017\x12\x0a\x10\x05\x10\x00\x1a\x04\x08\x01\x10\x02"))
	f.Fuzz(func(t *testing.T, plain []byte) {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(plain) // to memory
		z.Close()
		s, err := parseProfile(b.Bytes())
		if err != nil {
			return
		}
		for id, n := range s.links {
			if n < 0 {
				t.Errorf("link %d: %d samples", id, n)
			}
		}
	})
}

func TestSamplesArePackedOrNot(t *testing.T) {
	for _, plain := range []string{
		"\x32\x00\x32\x0fcellkernel_link\x32\x017\x12\x0a\x12\x02\x05\x00\x1a\x04\x08\x01\x10\x02",
		"\x32\x00\x32\x0fcellkernel_link\x32\x017\x12\x0a\x10\x05\x10\x00\x1a\x04\x08\x01\x10\x02",
	} {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write([]byte(plain))
		z.Close()
		s, err := parseProfile(b.Bytes())
		if err != nil || s.total != 5 || s.links[7] != 5 {
			t.Errorf("%q: %+v, %v; want 5 samples of link 7", plain, s, err)
		}
	}
}

func TestRatesFollowSamplesOnlyWhereTimeIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		got, could []float64 // samples
		want       []float64 // rates
	}{
		"three share two cores":       {[]float64{30, 37, 33}, []float64{50, 50, 50}, []float64{2. / 3, 2. / 3, 2. / 3}},
		"one sleeps":                  {[]float64{25, 0}, []float64{25, 25}, []float64{1, 0}},
		"one sleeps half of the time": {[]float64{100, 50}, []float64{100, 100}, []float64{1, .5}},
		"one starts goroutines":       {[]float64{100, 300}, []float64{100, 100}, []float64{1, 3}},
		"all sleep":                   {[]float64{0, 0}, []float64{100, 100}, []float64{0, 0}},
		"one is new":                  {[]float64{100, 0}, []float64{100, 0}, []float64{1, 1}},
	} {
		var all []*found
		for i := range c.got {
			all = append(all, &found{got: c.got[i], could: c.could[i]})
		}
		judge(all)
		for i, f := range all {
			if math.Abs(f.rate-c.want[i]) > 0.01 {
				t.Errorf("%s: link %d has the rate %.3f, want %.3f", name, i, f.rate, c.want[i])
			}
		}
	}
}
