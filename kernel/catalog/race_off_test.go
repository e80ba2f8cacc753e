//go:build !race

package catalog_test

// swaps of one plugin under calls.
const swaps = 20
