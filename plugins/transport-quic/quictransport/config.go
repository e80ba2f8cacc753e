package quictransport

import (
	"fmt"
	"time"

	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// Config is the section of the genome.
type Config struct {
	// MaxConnections is how many incoming connections there may be, handshakes
	// included. Each carries the links of one node.
	MaxConnections int `json:"max-connections"`
	// MaxPerSource is how many of them one source may have: an IPv4 address or
	// an IPv6 network of 56 bits.
	MaxPerSource int `json:"max-per-source"`
	// Idle is how long a dialled connection is kept that carries no link. An
	// accepted one is kept twice as long.
	Idle plugin.Duration `json:"idle"`
	// GSO lets the operating system cut packets where it and the network card
	// can (generic segmentation offload). Where they can not, it is not used.
	GSO bool `json:"gso"`
}

// DefaultConfig is what an empty section means.
func DefaultConfig() Config {
	return Config{MaxConnections: 512, MaxPerSource: 64, Idle: plugin.Duration(30 * time.Second), GSO: true}
}

// Validate reports impossible values.
func (c Config) Validate() error {
	switch {
	case c.MaxConnections < 1 || c.MaxConnections > 65536:
		return fmt.Errorf("key \"max-connections\": %d: want 1 to 65536", c.MaxConnections)
	case c.MaxPerSource < 1 || c.MaxPerSource > c.MaxConnections:
		return fmt.Errorf("key \"max-per-source\": %d: want 1 to max-connections, %d", c.MaxPerSource, c.MaxConnections)
	case c.Idle < plugin.Duration(time.Second) || c.Idle > plugin.Duration(time.Hour):
		return fmt.Errorf("key \"idle\": %v: want 1s to 1h", time.Duration(c.Idle))
	}
	return nil
}
