// Package e2e holds the tests of the system as its users meet it: the built
// command, real processes, sockets and signals, each test in a directory of
// its own. They assert what happens, and how fast only within a wide margin:
// the exact bounds are rows of make accept.
package e2e
