package jsonledger

import "fmt"

// Config is the section of the genome.
type Config struct {
	// Segment is how many bytes a segment has before the next one begins.
	Segment int64 `json:"segment"`
	// Checkpoint is how many bytes of records are written between two
	// checkpoints: as many are verified at a start.
	Checkpoint int64 `json:"checkpoint"`
}

// DefaultConfig is what an empty section means.
func DefaultConfig() Config { return Config{Segment: 16 << 20, Checkpoint: 4 << 20} }

// Validate reports impossible values.
func (c Config) Validate() error {
	const low, high = 4 << 10, 1 << 30
	if c.Segment < low || c.Segment > high {
		return fmt.Errorf("key \"segment\": %d: want %d to %d", c.Segment, low, high)
	}
	if c.Checkpoint < low || c.Checkpoint > high {
		return fmt.Errorf("key \"checkpoint\": %d: want %d to %d", c.Checkpoint, low, high)
	}
	return nil
}
