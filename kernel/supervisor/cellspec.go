package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// Defaults of a [CellSpec].
const (
	DefaultStartTimeout = 10 * time.Second
	DefaultDrainTimeout = 10 * time.Second
	MaxReplicas         = 1024 // of one cell
)

// A Readiness says who decides that a replica is ready.
type Readiness string

// The ways to become ready.
const (
	ReadyByCell  Readiness = "cell"  // the replica says so: [Supervisor.Ready]
	ReadyByProbe Readiness = "probe" // the spec's Probe succeeds
	ReadyAtStart Readiness = "start" // its program runs
)

// A CellSpec says what to keep running. The zero value of a field that is
// not required is its default.
type CellSpec struct {
	Name sdk.CellName // required
	Exe  *os.File     // as in [Spec]; stays open and the caller's
	Argv []string     // required
	Env  []string     // clean: nothing else but what the Start hook adds
	Dir  string
	// Replicas is how many run. 0 is none.
	Replicas int
	Restart  RestartRule
	Job      bool // runs once, then it is done
	Ready    Readiness
	Probe    Probe // of ReadyByProbe
	// StartTimeout is how long a replica may take to become ready; jobs may
	// take as long as they want. DrainTimeout is how long it may take to end.
	StartTimeout, DrainTimeout time.Duration
	Limits                     sdk.Limits
	Stub                       Stub
	Budget                     Budget
}

// withDefaults returns the spec completed, or what is wrong with it.
func (c CellSpec) withDefaults() (CellSpec, error) {
	if _, err := sdk.ParseCellName(string(c.Name)); err != nil {
		return c, err
	}
	if c.Restart == "" {
		c.Restart = RestartAlways
	}
	if c.Ready == "" {
		c.Ready = ReadyAtStart
	}
	if c.StartTimeout <= 0 {
		c.StartTimeout = DefaultStartTimeout
	}
	if c.DrainTimeout <= 0 {
		c.DrainTimeout = DefaultDrainTimeout
	}
	c.Budget = c.Budget.orDefault()
	var err error
	switch {
	case len(c.Argv) == 0:
		err = errors.New("no command")
	case c.Replicas < 0 || c.Replicas > MaxReplicas:
		err = fmt.Errorf("%d replicas: want 0 to %d", c.Replicas, MaxReplicas)
	case c.Restart != RestartAlways && c.Restart != RestartOnFailure && c.Restart != RestartNever:
		err = fmt.Errorf("restart %q: want always, on-failure or never", c.Restart)
	case c.Ready == ReadyByProbe:
		err = c.Probe.check()
	case c.Ready != ReadyByCell && c.Ready != ReadyAtStart:
		err = fmt.Errorf("readiness %q: want cell, probe or start", c.Ready)
	}
	if err != nil {
		return c, fmt.Errorf("cell %q: %w", c.Name, err)
	}
	return c, nil
}

// policy returns what decides over restarts.
func (c *CellSpec) policy() policy {
	return policy{restart: c.Restart, job: c.Job, budget: c.Budget}
}

// A Launch is what the Start hook adds to one start.
type Launch struct {
	Env    []string   // appended to the spec's
	Files  []*os.File // descriptors 3 and up; the supervisor closes them
	Cgroup string     // as in [Spec]
	Join   []string   // added to those of the spec's Stub
	// Limited says that the spec's limits were seen to: the start does not set them.
	Limited bool
	// Close is called once when this life is over, however it ended, and also
	// if it never began. nil for nothing.
	Close func()
}

// Hooks connect a supervisor with the rest of a kernel. Every field may be
// nil. Hooks of one replica are called in order, those of several replicas
// concurrently; none may call back into an operation that waits.
type Hooks struct {
	// Start is called before each start, for example to make the replica's
	// control channel. An error counts like one of the start itself.
	Start func(ctx context.Context, r Replica, c CellSpec) (Launch, error)
	// Started is called when the process exists, before it counts as ready.
	Started func(r Replica, p *Process)
	// Output takes over the output of a process: it reads both pipes to their
	// end, closes them, and then closes the channel it returned. Without it,
	// output goes nowhere.
	Output func(r Replica, stdout, stderr *os.File) <-chan struct{}
	// Drain asks a replica that was ready to finish its work. It returns when
	// that is done or could not be asked for; then comes SIGTERM.
	Drain func(ctx context.Context, r Replica) error
	// Exited is called after each end of a process.
	Exited func(r Replica, e Exit)
	// Event is called at every change of a replica's status. Its Usage is empty.
	Event func(s Status)
	// LastLines returns the end of a replica's output, for messages.
	LastLines func(cell sdk.CellName, index int) []string
}
