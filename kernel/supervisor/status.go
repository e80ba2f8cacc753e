package supervisor

import (
	"fmt"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// A State is where a replica is in its life.
type State string

// The states. A replica starts, serves and drains; what ended by itself is
// done or failed for good, or waits for its next start in backoff (soon) or
// crashloop (its restart budget is used up).
const (
	Starting  State = "starting"
	Ready     State = "ready"
	Draining  State = "draining"
	Stopped   State = "stopped" // on request
	Backoff   State = "backoff"
	Crashloop State = "crashloop"
	Failed    State = "failed"
	Done      State = "done"
)

// Ended reports whether a replica in this state will not start again unless
// somebody asks for it.
func (s State) Ended() bool { return s == Stopped || s == Failed || s == Done }

// A Replica names one life of one replica: "worker#2@7".
type Replica struct {
	Cell sdk.CellName
	// Index counts the replicas of a cell from 1.
	Index int
	// Incarnation is new at every start and never used again in a run. It is 0
	// before the first.
	Incarnation uint64
}

// String returns "worker#2@7".
func (r Replica) String() string { return fmt.Sprintf("%s#%d@%d", r.Cell, r.Index, r.Incarnation) }

// A Status is what is known about a replica at a moment.
type Status struct {
	Replica
	State    State
	Reason   string // why it is in this state, for people; may be empty
	PID      int    // 0 while there is no process
	Restarts int    // starts because the life before had ended, unasked
	Started  time.Time
	Exit     *Exit // how the last life ended; nil before the first end. Read only
	Usage    Reading
}

// A StartError tells which replica could not start, and what it said.
type StartError struct {
	Replica Replica
	State   State
	Reason  string   // in words: "exit status 3 before it was ready"
	Lines   []string // the end of its output; may be empty
}

// Error returns a line, followed by the indented output.
func (e *StartError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "start cell %q: replica %d: %s", e.Replica.Cell, e.Replica.Index, e.Reason)
	for _, line := range e.Lines {
		b.WriteString("\n  | ")
		b.WriteString(line)
	}
	return b.String()
}
