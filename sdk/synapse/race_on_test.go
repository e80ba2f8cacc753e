//go:build race

package synapse_test

// underRace has the plain run make most of the handshakes that are damaged: what
// runs at once in one of them is the same in all.
const underRace = true
