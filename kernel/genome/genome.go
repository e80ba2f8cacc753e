// Package genome is the manifest as plain structs: what the user wants run,
// after all files, overlays, variables and flags were merged. It checks what
// is in it, orders the cells and compares two of them; it reads no file and
// starts nothing.
//
// The tag of a field is the key of genome.toml. Fields tagged genome:"-" are
// filled in by whoever reads the file and can not be written in it.
package genome

import (
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// A Genome is everything one kernel runs. Make one by changing [Default]; it
// is read-only once it was validated. It survives encoding/json unchanged.
type Genome struct {
	File      string                 `json:"file" genome:"-"` // absolute path of the root file
	Kernel    Kernel                 `json:"kernel"`
	Golgi     Golgi                  `json:"golgi"`
	Cells     map[sdk.CellName]*Cell `json:"cells"`
	Workspace Workspace              `json:"workspace"`
	Plugins   map[string]Plugin      `json:"plugins"` // by "<kind>-<instance>"
}

// Kernel says who this kernel is and how it keeps logs.
type Kernel struct {
	Node       string `json:"node"`        // a name for people
	Mesh       string `json:"mesh"`        // empty: the private mesh of this checkout
	Metrics    string `json:"metrics"`     // host:port, empty: only on the admin socket
	LogSize    Bytes  `json:"log_size"`    // a log file is rotated before it grows beyond
	LogBackups int    `json:"log_backups"` // rotated files kept per log
	LogRate    Bytes  `json:"log_rate"`    // per second and output stream, 0: as fast as the disk

	Donor     bool    `json:"donor"`      // other nodes pay for what their calls use
	Price     float64 `json:"price"`      // ATP for 100 ms of CPU, in thousandths
	NodeCalls int     `json:"node_calls"` // handlers of a cell that run at once for one node that pays
	MaxPrice  float64 `json:"max_price"`  // that cells of this kernel pay
	Credit    int64   `json:"credit"`     // ATP that a member of the mesh may owe
	Debt      int64   `json:"debt"`       // ATP that this node may owe in all
}

// Golgi configures the pipeline of calls: which plugins serve it, and the
// defaults that axons inherit.
type Golgi struct {
	Listen         string        `json:"listen"`     // host:port of cells with listen = true
	Transports     []string      `json:"transports"` // names or paths, in order of preference
	Discovery      []string      `json:"discovery"`  // names or paths
	Ledger         string        `json:"ledger"`     // name or path, empty: none
	Billing        string        `json:"billing"`    // name or path, empty: none
	Balance        string        `json:"balance"`    // "p2c"
	Links          int           `json:"links"`      // most links a caller keeps per name
	Deadline       time.Duration `json:"deadline"`   // of a call that has none
	Retries        int           `json:"retries"`    // attempts after the first
	MaxMessage     Bytes         `json:"max_message"`
	PluginRestarts Budget        `json:"plugin_restarts"`
}

// A Budget allows Max restarts within a sliding window.
type Budget struct {
	Max    int           `json:"max"`
	Within time.Duration `json:"within"`
}

// Workspace lists the member directories of the root file.
type Workspace struct {
	Members []string     `json:"members"` // absolute directories
	Main    sdk.CellName `json:"main"`    // when this one ends, up ends with its exit code; may be empty
}

// A Cell is one service or job and the processes that run it. Exactly one of
// Package and Command is set.
type Cell struct {
	Name sdk.CellName `json:"name" genome:"-"`
	File string       `json:"file" genome:"-"` // absolute path of the file that describes it
	Dir  string       `json:"dir"`             // absolute working directory

	Package string            `json:"package"` // Go package to build: an import path or an absolute directory
	Command []string          `json:"command"`
	Args    []string          `json:"args"`
	Env     map[string]string `json:"env"`

	Replicas    int      `json:"replicas"`
	Job         bool     `json:"job"`         // runs once
	Restart     string   `json:"restart"`     // "always", "on-failure", "never"
	Restarts    Budget   `json:"restarts"`    // beyond it the cell crash-loops
	Ready       Ready    `json:"ready"`       // for commands that do not speak the sdk
	Listen      Listen   `json:"listen"`      // whether other machines may call it
	Allow       []string `json:"allow"`       // cell names and node ids; empty: every member of the mesh
	Concurrency int      `json:"concurrency"` // calls a replica handles at once, 0: no limit
	Limits      Limits   `json:"limits"`      // of each replica

	StartTimeout time.Duration `json:"start_timeout"` // from the start of a replica until it is ready
	DrainTimeout time.Duration `json:"drain_timeout"` // from the request to stop until it is killed

	Axons     map[sdk.CellName]*Axon  `json:"axons"`     // what it calls
	Junctions map[sdk.CellName]string `json:"junctions"` // name to the absolute directory of another kernel
}

// Ready is how the kernel finds out that a command serves. At most one of
// TCP, HTTP and Exec is set; none means that the process speaks the sdk.
type Ready struct {
	TCP    string        `json:"tcp"`  // host:port that accepts a connection
	HTTP   string        `json:"http"` // URL that answers with a 2xx status
	Exec   []string      `json:"exec"` // command that exits with 0
	Within time.Duration `json:"within"`
}

// Probe reports whether any probe is set.
func (r Ready) Probe() bool { return r.TCP != "" || r.HTTP != "" || len(r.Exec) > 0 }

// Limits bound a process. Zero means no limit.
type Limits struct {
	CPUs   float64 `json:"cpus"` // cores
	Memory Bytes   `json:"memory"`
	Pids   int64   `json:"pids"`
}

// SDK returns l in the vocabulary of the billing plugins.
func (l Limits) SDK() sdk.Limits {
	return sdk.Limits{CPUs: l.CPUs, Memory: int64(l.Memory), Pids: l.Pids}
}

// An Axon is a dependency: where to find it and how to call it. Its key is
// the name under which the cell calls it.
type Axon struct {
	To      []Target      `json:"to"`    // never empty in a valid genome
	Peers   []sdk.NodeID  `json:"peers"` // only these nodes; empty: every member of the mesh
	Timeout time.Duration `json:"timeout"`
	Retries int           `json:"retries"`
	Spread  string        `json:"spread"` // "score", "local", "even"
	Links   int           `json:"links"`
	Wait    bool          `json:"wait"` // start this cell only after the other one is ready
}

// A Plugin is a section [plugins.KIND-INSTANCE].
type Plugin struct {
	Use    string         `json:"use"`    // a bundled name or an absolute path, empty: the instance
	SHA256 string         `json:"sha256"` // of the executable, empty: not pinned
	Limits Limits         `json:"limits"`
	Config map[string]any `json:"config" genome:"rest"` // everything else, values as in JSON
}

// Packages returns those of these cells that have a package to build.
func (g *Genome) Packages(names []sdk.CellName) []*Cell {
	var cells []*Cell
	for _, n := range names {
		if c := g.Cells[n]; c.Package != "" {
			cells = append(cells, c)
		}
	}
	return cells
}
