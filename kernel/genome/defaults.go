package genome

import (
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// Default returns a genome without cells, with every default in place. The
// maps are empty, not nil.
func Default() *Genome {
	return &Genome{
		Kernel: Kernel{LogSize: 10_000_000, LogBackups: 5, LogRate: 8_000_000, Price: 1, MaxPrice: 1, NodeCalls: 256, Credit: 36_000, Debt: 36_000},
		Golgi: Golgi{
			Listen:         ":9000",
			Transports:     []string{"uds", "quic"},
			Discovery:      []string{"multicast"},
			Ledger:         "json",
			Billing:        "cgroup",
			Balance:        "p2c",
			Links:          8,
			Deadline:       30 * time.Second,
			Retries:        2,
			MaxMessage:     16 << 20,
			PluginRestarts: Budget{Max: 5, Within: 30 * time.Second},
		},
		Cells:     map[sdk.CellName]*Cell{},
		Workspace: Workspace{Members: []string{}},
		Plugins:   map[string]Plugin{},
	}
}

// DefaultCell returns a cell with every default in place. Restart is that of
// a service; see [DefaultRestart].
func DefaultCell() *Cell {
	return &Cell{
		Command:      []string{},
		Args:         []string{},
		Env:          map[string]string{},
		Replicas:     1,
		Restart:      DefaultRestart(false),
		Restarts:     Budget{Max: 5, Within: 30 * time.Second},
		Ready:        Ready{Exec: []string{}, Within: 10 * time.Second},
		Allow:        []string{},
		StartTimeout: 10 * time.Second,
		DrainTimeout: 10 * time.Second,
		Axons:        map[sdk.CellName]*Axon{},
		Junctions:    map[sdk.CellName]string{},
	}
}

// DefaultRestart is "always" for services and "never" for jobs.
func DefaultRestart(job bool) string {
	if job {
		return RestartNever
	}
	return RestartAlways
}

// DefaultAxon returns an axon that inherits from g.
func DefaultAxon(g Golgi) *Axon {
	return &Axon{
		To:      []Target{},
		Peers:   []sdk.NodeID{},
		Timeout: g.Deadline,
		Retries: g.Retries,
		Spread:  "score",
		Links:   g.Links,
		Wait:    true,
	}
}
