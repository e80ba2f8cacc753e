//go:build !race

package cell_test

const underRace = false
