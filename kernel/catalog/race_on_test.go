//go:build race

package catalog_test

// swaps of one plugin under calls: the race detector makes each take ten times
// as long, and sees with a few what it sees with many.
const swaps = 5
