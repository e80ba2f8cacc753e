//go:build race

package lighthouse

// raced says that the race detector is on, whose memory is many times ours.
const raced = true
