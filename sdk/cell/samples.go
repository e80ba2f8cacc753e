package cell

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime/pprof"
	"strconv"
)

// linkLabel is the profiler's label of goroutines that work for a link. It is
// set on the link's reader and on whoever runs one of its handlers; goroutines
// they start inherit it. It costs a pointer.
const linkLabel = "cellkernel_link"

// maxProfile bounds a profile, in bytes.
const maxProfile = 16 << 20

// label marks the current goroutine as working for l.
func (l *inLink) label() {
	if l.labels != nil {
		pprof.SetGoroutineLabels(l.labels)
	}
}

// unlabel marks the current goroutine as working for nobody in particular.
func unlabel() { pprof.SetGoroutineLabels(context.Background()) }

// labelled returns a context with the label of a link.
func labelled(l *link) context.Context {
	return pprof.WithLabels(context.Background(), pprof.Labels(
		linkLabel, strconv.FormatUint(l.info.ID, 10), "caller", string(l.peer.Cell), "node", l.peer.Node.Short()))
}

// Samples are where a process was found by its profiler.
type samples struct {
	total int64
	links map[uint64]int64
}

// A sampler asks the runtime's profiler, for a fraction of a second at a time,
// for which links the process works. There is one profiler in a process: while
// the user has it, there are no samples.
type sampler struct {
	on    bool
	since int64 // nanos
	cpu   int64 // ns of the process at since
	buf   bytes.Buffer
}

func (s *sampler) start(now, cpu int64) bool {
	s.buf.Reset()
	if pprof.StartCPUProfile(&s.buf) != nil {
		return false // the user profiles
	}
	s.on, s.since, s.cpu = true, now, cpu
	return true
}

func (s *sampler) stop() (samples, error) {
	s.on = false
	pprof.StopCPUProfile()
	return parseProfile(s.buf.Bytes())
}

var errProfile = errors.New("read profile: malformed")

// parseProfile reads what it needs of a compressed profile.proto: the first
// value of each sample, which counts it, and its label for links.
// https://github.com/google/pprof/blob/main/proto/profile.proto
func parseProfile(compressed []byte) (samples, error) {
	out := samples{links: make(map[uint64]int64)}
	z, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return out, fmt.Errorf("read profile: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(z, maxProfile))
	if err != nil {
		return out, fmt.Errorf("read profile: %w", err)
	}
	var texts []string
	var found []sample
	err = eachField(b, func(field int, _ uint64, body []byte) error {
		switch field {
		case 2: // Profile.sample
			s, err := parseSample(body)
			found = append(found, s)
			return err
		case 6: // Profile.string_table
			texts = append(texts, string(body))
		}
		return nil
	})
	if err != nil {
		return out, err
	}
	for _, s := range found {
		out.total += s.count
		for _, l := range s.labels {
			if l.key >= uint64(len(texts)) || l.text >= uint64(len(texts)) {
				return out, errProfile
			}
			if texts[l.key] != linkLabel {
				continue
			}
			if id, err := strconv.ParseUint(texts[l.text], 10, 64); err == nil {
				out.links[id] += s.count
			}
		}
	}
	return out, nil
}

// A sample is one Profile.sample; its labels are indices of strings.
type sample struct {
	count  int64
	labels []struct{ key, text uint64 }
}

func parseSample(b []byte) (s sample, err error) {
	valued := false
	err = eachField(b, func(field int, v uint64, body []byte) error {
		switch field {
		case 2: // Sample.value: packed, or each by itself
			if len(body) > 0 {
				var n int
				if v, n = binary.Uvarint(body); n <= 0 {
					return errProfile
				}
			}
			if !valued {
				s.count, valued = int64(v&(1<<40-1)), true
			}
		case 3: // Sample.label
			var l struct{ key, text uint64 }
			s.labels = append(s.labels, l)
			return eachField(body, func(field int, v uint64, _ []byte) error {
				switch field {
				case 1: // Label.key
					s.labels[len(s.labels)-1].key = v
				case 2: // Label.str
					s.labels[len(s.labels)-1].text = v
				}
				return nil
			})
		}
		return nil
	})
	return s, err
}

// eachField calls f for each field of a protocol buffer: with its number, or
// with its bytes.
func eachField(b []byte, f func(field int, v uint64, body []byte) error) error {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return errProfile
		}
		b = b[n:]
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return errProfile
		}
		b = b[n:]
		var body []byte
		switch tag & 7 {
		case 0: // varint
		case 2: // bytes, v of them
			if v > uint64(len(b)) {
				return errProfile
			}
			body, b = b[:v], b[v:]
		default:
			return errProfile // profiles have no others
		}
		if err := f(int(tag>>3), v, body); err != nil {
			return err
		}
	}
	return nil
}
