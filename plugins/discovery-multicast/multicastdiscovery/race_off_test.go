//go:build !race

package multicastdiscovery_test

// raced says that the race detector is on.
const raced = false
