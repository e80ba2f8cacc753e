//go:build !race

package lighthouse

// raced says that the race detector is on.
const raced = false
