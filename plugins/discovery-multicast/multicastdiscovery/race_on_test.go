//go:build race

package multicastdiscovery_test

// raced says that the race detector is on, whose memory is many times ours.
const raced = true
