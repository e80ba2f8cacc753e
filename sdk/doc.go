// Package sdk is the vocabulary of cellkernel: every noun that crosses a
// package or a process, the closed set of errors, and the four plugin
// interfaces. It imports the standard library only and nothing of ours.
//
// Who you are decides which package you want next:
//
//   - A cell author links [github.com/cellkernel/cellkernel/sdk/cell].
//   - A plugin author links [github.com/cellkernel/cellkernel/sdk/plugin]
//     and implements one interface of this package.
//   - An operator writes genome.toml and needs neither.
//
// The life of a call: a cell asks its kernel for a name ([CellName]); the
// kernel resolves it to endpoints, dials one through a [Transport], and hands
// the cell a connected socket, the link. From then on requests and replies
// are frames on that socket and no other process sees them. What failed says
// so with an [Error], whose [Executed] tells whether it may be tried again.
package sdk
