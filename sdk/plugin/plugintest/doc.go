// Package plugintest holds the contract of each kind of plugin as clauses
// that anyone can run: in a test of the plugin ([Test]), over a process, and,
// through `cellkernel plugin test`, on a binary in any language ([Run]).
//
//	func TestContract(t *testing.T) {
//		plugintest.Test(t, plugintest.InProcess(mytransport.Plugin()), plugintest.Options{})
//	}
//
// A clause opens fresh instances of the plugin, checks one promise, and
// returns what is wrong as an error, in the manner of testing/fstest. A plugin
// that breaks a promise fails the clauses that need it and passes all others.
// The Benchmark functions measure any implementation with the same code.
package plugintest
