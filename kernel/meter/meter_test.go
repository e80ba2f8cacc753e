package meter_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cellkernel/cellkernel/kernel/meter"
	"github.com/cellkernel/cellkernel/sdk"
)

const (
	ms = time.Millisecond
	w1 = sdk.WorkloadID("cell/worker#1@1")
)

func measured(m *meter.Meter, id sdk.WorkloadID, cpu time.Duration) {
	m.Measured("worker", sdk.Usage{ID: id, CPU: cpu, Source: "cgroup2"})
}

// sums adds charges up by who called from where.
func sums(list []meter.Charge) map[string]sdk.ATP {
	out := make(map[string]sdk.ATP)
	for _, c := range list {
		out[string(c.Node)+"/"+string(c.From)] += c.CPU
	}
	return out
}

func expect(t *testing.T, m *meter.Meter, want map[string]sdk.ATP) {
	t.Helper()
	if got := sums(m.Charges()); !maps.Equal(got, want) {
		t.Errorf("charges %v, want %v", got, want)
	}
}

func line(link uint64, node sdk.NodeID, from sdk.CellName, weight time.Duration) meter.Line {
	return meter.Line{Link: link, Node: node, From: from, Method: "W.Do", Weight: weight}
}

func TestChargesAreSplitByWeight(t *testing.T) {
	var m meter.Meter
	m.Counted(w1, "worker", meter.Counters{CPU: 100 * ms, Split: "time", Lines: []meter.Line{line(1, "far", "a", 60*ms), line(2, "", "b", 20*ms)}})
	measured(&m, w1, 200*ms) // the operating system saw twice as much as the process
	expect(t, &m, map[string]sdk.ATP{"far/a": 120_000, "/b": 40_000, "/": 40_000})
	expect(t, &m, map[string]sdk.ATP{})
}

func TestSourceSaysWhatMeasuredAndHowItWasSplit(t *testing.T) {
	var m meter.Meter
	m.Counted(w1, "worker", meter.Counters{CPU: ms, Split: "samples", Lines: []meter.Line{line(1, "far", "a", ms)}})
	measured(&m, w1, ms)
	list := m.Charges()
	if len(list) != 1 || list[0].Source != "cgroup2/samples" || list[0].Cell != "worker" || list[0].Method != "W.Do" {
		t.Errorf("charges %+v", list)
	}
}

// While a process says nothing it may just be late: nobody is charged yet.
func TestWhatWasMeasuredWaitsForCounters(t *testing.T) {
	var m meter.Meter
	m.Counted(w1, "worker", meter.Counters{})
	measured(&m, w1, 50*ms)
	expect(t, &m, map[string]sdk.ATP{})
	m.Counted(w1, "worker", meter.Counters{CPU: 50 * ms, Lines: []meter.Line{line(1, "far", "a", 50*ms)}})
	expect(t, &m, map[string]sdk.ATP{"far/a": 50_000})
}

func TestIdleTimeIsTheNodesOwn(t *testing.T) {
	var m meter.Meter
	m.Counted(w1, "worker", meter.Counters{CPU: 5000 * ms, Lines: []meter.Line{line(1, "far", "a", 100*ms)}})
	measured(&m, w1, 5000*ms)
	expect(t, &m, map[string]sdk.ATP{"far/a": 100_000, "/": 4_900_000})
}

func TestAProcessThatSaysNothingIsTheNodesOwn(t *testing.T) {
	var m meter.Meter
	measured(&m, w1, 7*ms)
	expect(t, &m, map[string]sdk.ATP{"/": 7000})
	m.Ended(w1)
	expect(t, &m, map[string]sdk.ATP{})
}

// A plugin that comes back may be behind the kernel that stood in for it.
func TestReadingsThatGoBackChangeNothing(t *testing.T) {
	var m meter.Meter
	for _, cpu := range []time.Duration{10 * ms, 4 * ms, 8 * ms, 12 * ms} {
		measured(&m, w1, cpu)
	}
	expect(t, &m, map[string]sdk.ATP{"/": 12_000})
}

func TestCountersThatGoBackAreAnotherIncarnation(t *testing.T) {
	var m meter.Meter
	for _, weight := range []time.Duration{10 * ms, 4 * ms} {
		l := line(1, "far", "a", weight)
		l.Calls = uint64(weight / ms)
		m.Counted(w1, "worker", meter.Counters{CPU: weight, Lines: []meter.Line{l}})
	}
	measured(&m, w1, 14*ms)
	list := m.Charges()
	if len(list) != 1 || list[0].CPU != 14_000 || list[0].Calls != 14 {
		t.Errorf("charges %+v, want 14 ms and 14 calls", list)
	}
}

func TestTheEndSettlesTheRest(t *testing.T) {
	var m meter.Meter
	l := line(1, "far", "a", 2*ms)
	l.Closed = true
	m.Counted(w1, "worker", meter.Counters{CPU: 2 * ms, Lines: []meter.Line{l}})
	measured(&m, w1, 2*ms)
	_ = m.Charges()
	measured(&m, w1, 3*ms)
	m.Ended(w1)
	expect(t, &m, map[string]sdk.ATP{"/": 1000})
}

func TestFractionsAreKept(t *testing.T) {
	var m meter.Meter
	var sum sdk.ATP
	for i := range 1000 {
		cpu := time.Duration(i+1) * 1500 * time.Nanosecond
		m.Counted(w1, "worker", meter.Counters{CPU: cpu, Lines: []meter.Line{line(1, "far", "a", cpu)}})
		measured(&m, w1, cpu)
		sum += sums(m.Charges())["far/a"]
	}
	if sum != 1500 {
		t.Errorf("charged %d µs of 1500", sum)
	}
}

// However readings and counters come, the sum of charges is never above what
// was measured, and all of it once everybody has said their last.
func TestChargesNeverExceedWhatWasMeasured(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m meter.Meter
		const replicas = 3
		var highest, own [replicas]time.Duration
		weights := make(map[[2]int]time.Duration)
		var charged sdk.ATP
		id := func(i int) sdk.WorkloadID { return sdk.WorkloadID(rune('a' + i)) }
		limit := func() (sum time.Duration) {
			for _, h := range highest {
				sum += h
			}
			return sum
		}
		duration := func(label string) time.Duration {
			return time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, label))
		}
		t.Repeat(map[string]func(*rapid.T){
			"measure": func(*rapid.T) {
				i := rapid.IntRange(0, replicas-1).Draw(t, "replica")
				cpu := highest[i] + duration("more") - 100*ms
				highest[i] = max(highest[i], cpu)
				measured(&m, id(i), cpu)
			},
			"count": func(*rapid.T) {
				i := rapid.IntRange(0, replicas-1).Draw(t, "replica")
				own[i] += duration("own")
				c := meter.Counters{CPU: own[i]}
				for _, link := range rapid.SliceOfNDistinct(rapid.IntRange(1, 5), 0, 5, rapid.ID).Draw(t, "links") {
					k := [2]int{i, link}
					weights[k] += duration("weight")
					c.Lines = append(c.Lines, line(uint64(link), "far", "a", weights[k]))
				}
				m.Counted(id(i), "worker", c)
			},
			"charge": func(*rapid.T) {
				for _, c := range m.Charges() {
					if c.CPU < 0 {
						t.Fatalf("charge of %d", c.CPU)
					}
					charged += c.CPU
				}
			},
			"": func(t *rapid.T) {
				if most := sdk.ATP(limit() / time.Microsecond); charged > most {
					t.Fatalf("charged %d µs, measured %d", charged, most)
				}
			},
		})
		for i := range replicas {
			m.Ended(id(i))
		}
		for _, c := range m.Charges() {
			charged += c.CPU
		}
		if most := sdk.ATP(limit() / time.Microsecond); charged > most || charged < most-2*replicas-2 {
			t.Fatalf("charged %d µs at the end, measured %d", charged, most)
		}
	})
}

// Who is charged what does not depend on how often one looks.
func TestTheSplitDoesNotDependOnHowOftenOneLooks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		steps := rapid.SliceOfN(rapid.Int64Range(1, int64(time.Second)), 1, 50).Draw(t, "steps")
		seed := rapid.Uint64().Draw(t, "seed")
		play := func(every int) map[string]sdk.ATP {
			var m meter.Meter
			random := rand.New(rand.NewPCG(seed, 1))
			var a, b time.Duration
			out := make(map[string]sdk.ATP)
			for i, s := range steps {
				part := random.Int64N(s)
				a, b = a+time.Duration(part), b+time.Duration(s-part)
				m.Counted(w1, "worker", meter.Counters{CPU: a + b, Lines: []meter.Line{line(1, "far", "a", a), line(2, "far", "b", b)}})
				measured(&m, w1, a+b)
				if i%every == 0 || i == len(steps)-1 {
					for who, cpu := range sums(m.Charges()) {
						out[who] += cpu
					}
				}
			}
			return out
		}
		often, once := play(1), play(len(steps)+1)
		for _, who := range slices.Collect(maps.Keys(once)) {
			if d := often[who] - once[who]; d < -2 || d > 2 {
				t.Fatalf("%s: %d µs looking often, %d once", who, often[who], once[who])
			}
		}
	})
}
