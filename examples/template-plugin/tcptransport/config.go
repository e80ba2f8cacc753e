package tcptransport

import (
	"fmt"
	"time"

	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// Config is the plugin's section of the genome.
type Config struct {
	KeepAlive plugin.Duration `json:"keep-alive"` // between two probes of an idle connection
}

// DefaultConfig is what an empty section means.
func DefaultConfig() Config {
	return Config{KeepAlive: plugin.Duration(15 * time.Second)}
}

// Validate reports impossible values. It is called after decoding.
func (c Config) Validate() error {
	if c.KeepAlive < plugin.Duration(time.Second) {
		return fmt.Errorf("key \"keep-alive\": %v: want at least 1s", time.Duration(c.KeepAlive))
	}
	return nil
}
