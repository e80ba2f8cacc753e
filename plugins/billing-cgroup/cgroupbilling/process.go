package cgroupbilling

import (
	"os"
	"time"
)

// tick is the unit of times in /proc: USER_HZ is 100 on every architecture Go
// runs Linux on.
const tick = 10 * time.Millisecond

// maxResident bounds the processes of one cgroup whose memory is added up.
const maxResident = 256

// A process is what /proc says of one.
type process struct {
	cpu time.Duration
	rss int64
}

// process reads /proc/PID/stat. It is false if the process is gone or its
// number is another's by now.
func (b *Billing) process(pid int, started uint64) (process, bool) {
	p, err := b.proc.Proc(pid)
	if err != nil {
		return process{}, false
	}
	s, err := p.Stat()
	if err != nil || s.Starttime != started || s.State == "Z" || s.State == "X" {
		return process{}, false
	}
	ticks := int64(s.UTime) + int64(s.STime) + int64(s.CUTime) + int64(s.CSTime)
	return process{time.Duration(ticks) * tick, int64(s.RSS) * int64(os.Getpagesize())}, true
}

// resident adds up the memory of the processes in g. Pages that several of them
// share are counted for each.
func (b *Billing) resident(g group) int64 {
	var sum int64
	for _, pid := range g.pids(maxResident) {
		if p, err := b.proc.Proc(pid); err == nil {
			if s, err := p.Stat(); err == nil {
				sum += int64(s.RSS) * int64(os.Getpagesize())
			}
		}
	}
	return sum
}
