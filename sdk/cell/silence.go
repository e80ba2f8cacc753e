package cell

import "fmt"

// silence measures how long a link with calls in flight has been silent.
type silence struct {
	at       int64  // nanos of the last step; 0 before the first
	received uint64 // frames at the last step
	lasted   int64  // nanos without news
	pings    int64  // pings sent in them
}

// step takes the count of frames received so far and says whether to ping. A
// gap between two steps counts as little more than the usual second: if this
// process was stopped, the other side must not pay for it.
func (s *silence) step(now int64, received uint64) (ping bool, err error) {
	if s.at == 0 || received != s.received {
		*s = silence{at: now, received: received}
		return false, nil
	}
	s.lasted += min(now-s.at, int64(pingAfter)*3/2)
	s.at = now
	if s.lasted > int64(silenceLimit) {
		return false, fmt.Errorf("nothing heard for %s", silenceLimit)
	}
	if s.lasted/int64(pingAfter) > s.pings {
		s.pings++
		return true, nil
	}
	return false, nil
}
