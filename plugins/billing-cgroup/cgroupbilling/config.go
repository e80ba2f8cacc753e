package cgroupbilling

import (
	"fmt"
	"slices"
	"strings"
)

// The sources, the best first.
const (
	sourceCgroup2 = "cgroup2"
	sourceCpuacct = "cpuacct"
	sourceProcfs  = "procfs"
	sourceRusage  = "rusage" // of a process that has ended, from the kernel of this node
)

// Config is the section of the genome.
type Config struct {
	// Ladder lists the sources to try, in this order: the first that works
	// here is used.
	Ladder []string `json:"ladder"`
}

// DefaultConfig is what an empty section means.
func DefaultConfig() Config {
	return Config{Ladder: []string{sourceCgroup2, sourceCpuacct, sourceProcfs}}
}

// Validate reports impossible values.
func (c Config) Validate() error {
	known := DefaultConfig().Ladder
	for i, s := range c.Ladder {
		if !slices.Contains(known, s) || slices.Contains(c.Ladder[:i], s) {
			return fmt.Errorf("key \"ladder\": %q: want each of %s at most once", s, strings.Join(known, ", "))
		}
	}
	if len(c.Ladder) == 0 {
		return fmt.Errorf("key \"ladder\": want one of %s", strings.Join(known, ", "))
	}
	return nil
}
