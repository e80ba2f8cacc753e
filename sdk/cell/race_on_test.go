//go:build race

package cell_test

// underRace makes tests that move much data move less: they are about bounds,
// which the plain run checks.
const underRace = true
