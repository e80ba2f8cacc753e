package udstransport

import "fmt"

// Config is the section of the genome.
type Config struct {
	// Backlog is how many connections the kernel of the machine queues while
	// nobody accepts them; 0 for its limit (net.core.somaxconn).
	Backlog int `json:"backlog"`
}

// DefaultConfig is what an empty section means.
func DefaultConfig() Config { return Config{Backlog: 0} }

// Validate reports impossible values.
func (c Config) Validate() error {
	if c.Backlog < 0 || c.Backlog > 65535 {
		return fmt.Errorf("key \"backlog\": %d: want 0 to 65535", c.Backlog)
	}
	return nil
}
