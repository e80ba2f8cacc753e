package admin

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// APIVersion is the version of this API. A client refuses another one.
const APIVersion = 1

// SocketName is the file name of the admin socket in a kernel's run directory.
const SocketName = "admin.sock"

// Limits of what the API carries.
const (
	MaxReplicas = 1024     // replicas of one cell
	MaxIndex    = 10_000   // of a replica: above MaxReplicas are those started by hand
	MaxMessage  = 16 << 20 // bytes of a call's JSON, either way
	MaxBody     = 1 << 20  // bytes of any other request
	MaxLogText  = 64 << 10 // bytes of text in one LogRecord; longer lines come in parts
	MaxTail     = 1 << 20  // lines of LogQuery.Tail
)

// A State is where a process is in its life.
type State string

// The states.
const (
	StateStarting  State = "starting"  // started, not ready yet
	StateReady     State = "ready"     // serving
	StateBackoff   State = "backoff"   // ended, will be started again after a pause
	StateCrashLoop State = "crashloop" // ends again and again, pauses are long
	StateFailed    State = "failed"    // given up until it is restarted by hand
	StateDraining  State = "draining"  // finishes what it has begun, then ends
	StateStopped   State = "stopped"   // ended because it was asked to
	StateDone      State = "done"      // a job that ended well
)

// The kinds of process.
const (
	KindKernel = "kernel"
	KindCell   = "cell"
	KindPlugin = "plugin"
)

// A Version identifies a kernel.
type Version struct {
	API     int        `json:"api"` // APIVersion of the kernel
	Version string     `json:"version"`
	Node    string     `json:"node"`
	NodeID  sdk.NodeID `json:"node_id,omitempty"`
	PID     int        `json:"pid"`
	Genome  string     `json:"genome"` // absolute path of the manifest it was started with
	Dirs    []string   `json:"dirs"`   // every directory whose manifest it runs
}

// A Process is one process of a node, the kernel's own included.
type Process struct {
	Kind        string `json:"kind"` // KindKernel, KindCell or KindPlugin
	Name        string `json:"name"`
	Replica     int    `json:"replica"` // from 1; 0 where there are no replicas
	Incarnation uint64 `json:"incarnation,omitempty"`
	PID         int    `json:"pid"` // 0 while there is none
	State       State  `json:"state"`
	Restarts    int    `json:"restarts"` // because it had ended, not those that somebody asked for
	UptimeMS    int64  `json:"uptime_ms"`
	RSSBytes    int64  `json:"rss_bytes"`
	CPUUS       int64  `json:"cpu_us"` // CPU time of this incarnation, microseconds
	// StallUS is for how long some of it has wanted a CPU and had none, as the
	// operating system counts it (PSI), microseconds; 0 where it does not.
	StallUS int64 `json:"stall_us"`
	// Meter says what measured it: "cgroup2", "cpuacct", "rusage", "procfs", and
	// " (kernel)" behind it where the billing plugin has not. Empty while nothing has.
	Meter string `json:"meter,omitempty"`
	// Detail says why it is in its state, for people: "exit code 3".
	Detail string `json:"detail,omitempty"`
}

// ID returns what people call the process: "worker#2", "transport-quic".
func (p *Process) ID() string {
	if p.Replica == 0 {
		return p.Name
	}
	return p.Name + "#" + strconv.Itoa(p.Replica)
}

// A Plugin is one plugin of a kernel.
type Plugin struct {
	Kind     sdk.Kind `json:"kind"`
	Name     string   `json:"name"` // without the kind: "quic"
	Version  string   `json:"version"`
	Source   string   `json:"source"` // "bundled" or an absolute path
	State    State    `json:"state"`
	PID      int      `json:"pid"`
	Restarts int      `json:"restarts"`
	UptimeMS int64    `json:"uptime_ms"`
	Detail   string   `json:"detail,omitempty"`
}

// A Status sums up a kernel.
type Status struct {
	State   State        `json:"state"` // StateStarting, StateReady, StateFailed (degraded) or StateDraining
	Posture string       `json:"posture"`
	Version Version      `json:"version"`
	Mesh    string       `json:"mesh"`
	Uptime  int64        `json:"uptime_ms"`
	Cells   []CellStatus `json:"cells"`
	Plugins []Plugin     `json:"plugins"`
	// Problems lists what keeps the kernel from being ready, one line each.
	Problems []string `json:"problems"`
	// Differs lists what was changed by hand and is not in the genome, one line
	// each. The next Apply goes back to the genome.
	Differs []string `json:"differs"`
	// LastEvent is the sequence number of the newest event.
	LastEvent uint64 `json:"last_event"`
}

// A CellStatus sums up a cell.
type CellStatus struct {
	Name  sdk.CellName `json:"name"`
	Want  int          `json:"want"`  // replicas that should run
	Ready int          `json:"ready"` // replicas that serve
	State State        `json:"state"`
	Job   bool         `json:"job"`
	Main  bool         `json:"main"`
	// Detail says why it is not ready, for people; empty if it is.
	Detail string `json:"detail,omitempty"`
}

// A Setting is one value of the configuration in effect.
type Setting struct {
	Key    string `json:"key"`    // "cells.worker.replicas"
	Value  string `json:"value"`  // as TOML would write it
	Origin string `json:"origin"` // "default", "genome.toml:12", "CELLKERNEL_GOLGI__LINKS", "--set"
}

// An EventKind says what an [Event] reports.
type EventKind string

// The kinds of events.
const (
	EventState EventKind = "state" // Process changed its state; Cell sums up the cell it belongs to
	EventBuild EventKind = "build" // Text is being or has been built
	EventNote  EventKind = "note"  // Text is something the operator should know
	EventReady EventKind = "ready" // all is ready; Text is the posture line
	EventDrain EventKind = "drain" // the kernel drains and waits for Waiting
	EventLost  EventKind = "lost"  // Lost events were dropped before this one
)

// An Event is something that happened to a kernel. Seq orders events: it is
// never 0 and grows by one.
type Event struct {
	Seq     uint64      `json:"seq"`
	Time    time.Time   `json:"time"`
	Kind    EventKind   `json:"kind"`
	Process *Process    `json:"process,omitempty"`
	Cell    *CellStatus `json:"cell,omitempty"`
	Text    string      `json:"text,omitempty"`
	Waiting []string    `json:"waiting,omitempty"` // "worker#2 (3 calls)"
	Lost    uint64      `json:"lost,omitempty"`
}

// A LogQuery selects log records. The zero LogQuery is everything stored.
type LogQuery struct {
	// Sources are "kernel", a cell ("worker"), a replica ("worker#2") or a
	// plugin ("transport-quic"); none means all.
	Sources []string
	Since   time.Time // zero: from the beginning
	Tail    int       // at most so many records of each log before following; 0: all; at most MaxTail
	Follow  bool
}

// A LogRecord is one line that a process wrote.
type LogRecord struct {
	Time    time.Time `json:"time"`
	Kind    string    `json:"kind"` // as in Process
	Name    string    `json:"name"`
	Replica int       `json:"replica"`
	Stream  string    `json:"stream,omitempty"` // "stdout" or "stderr"
	// Text has no line end. Bytes that are not UTF-8 become U+FFFD.
	Text string `json:"text"`
	// Partial marks a piece of a long line whose rest follows.
	Partial bool `json:"partial,omitempty"`
}

// ID returns what people call the source: "worker#2".
func (r *LogRecord) ID() string {
	p := Process{Name: r.Name, Replica: r.Replica}
	return p.ID()
}

// A Target is a cell or one replica of it.
type Target struct {
	Cell    sdk.CellName
	Replica int // from 1; 0 means all
}

// String returns "worker" or "worker#2".
func (t Target) String() string {
	p := Process{Name: string(t.Cell), Replica: t.Replica}
	return p.ID()
}

// ParseTarget parses "worker" or "worker#2".
func ParseTarget(s string) (Target, error) {
	name, rep, numbered := strings.Cut(s, "#")
	cell, err := sdk.ParseCellName(name)
	if err != nil {
		return Target{}, err
	}
	t := Target{Cell: cell}
	if numbered {
		n, err := strconv.Atoi(rep)
		if err != nil || n < 1 || n > MaxIndex {
			return Target{}, fmt.Errorf("replica %.20q: want a number from 1 to %d", rep, MaxIndex)
		}
		t.Replica = n
	}
	return t, nil
}

// A Plan is a manifest to run, as its sources: the kernel reads the files
// itself. All paths are absolute.
type Plan struct {
	File     string   `json:"file"`
	Overlays []string `json:"overlays,omitempty"`
	Environ  []string `json:"environ,omitempty"` // CELLKERNEL_SECTION__KEY=value
	Sets     []string `json:"sets,omitempty"`    // section.key=value
	Cells    []string `json:"cells,omitempty"`   // only these and what they need; none: all
	NoDeps   bool     `json:"no_deps,omitempty"` // of Cells: not even what they need
	DryRun   bool     `json:"dry_run,omitempty"` // only say what would change
}

// A Change is one step from what runs to what a [Plan] wants.
type Change struct {
	Op     string       `json:"op"`               // "add", "remove", "restart", "scale", "update" or "reboot"
	Key    string       `json:"key"`              // "cells.worker", "golgi.links"
	Cell   sdk.CellName `json:"cell,omitempty"`   // empty for settings of the kernel
	Fields []string     `json:"fields,omitempty"` // keys of the cell that differ
	From   string       `json:"from,omitempty"`   // old and new value where one value changed
	To     string       `json:"to,omitempty"`
}

// String renders a change for people: "scale cells.worker: 2 -> 4".
func (c Change) String() string {
	s := c.Op + " " + c.Key
	if len(c.Fields) > 0 {
		s += " (" + strings.Join(c.Fields, ", ") + ")"
	}
	if c.From != "" || c.To != "" {
		s += ": " + c.From + " -> " + c.To
	}
	return s
}

// A DownRequest says how to end.
type DownRequest struct {
	// Within bounds the draining; what is left then is killed. 0 means the
	// kernel's own setting.
	Within time.Duration `json:"within_ns,omitempty"`
	Now    bool          `json:"now,omitempty"` // kill at once
}

// A Method is one method of a cell, with the JSON shapes of its messages.
type Method struct {
	Service string `json:"service"`
	Name    string `json:"name"`
	Doc     string `json:"doc,omitempty"`
	Streams string `json:"streams,omitempty"` // "", "client", "server" or "both"
	// Request and Reply are JSON Schemas, or null where the cell has none.
	Request json.RawMessage `json:"request,omitempty"`
	Reply   json.RawMessage `json:"reply,omitempty"`
}

// A CallRequest is one call with a JSON message.
type CallRequest struct {
	Target  Target
	Method  string          // "Work", or "Worker.Work" where a cell has several services
	Body    json.RawMessage // valid JSON, at most MaxMessage bytes
	Timeout time.Duration   // 0 means the kernel's default
}

// A Launch is what the caller needs to run a cell as its own child: exec
// Command in Dir with Env added to its environment.
type Launch struct {
	Command []string `json:"command"`
	Dir     string   `json:"dir"`
	// Env holds the genome's variables and CELLKERNEL_SOCKET with the
	// one-time CELLKERNEL_TOKEN, which is a secret.
	Env []string `json:"env"`
}
