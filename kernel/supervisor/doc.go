// Package supervisor runs cells, and gives birth to every child process of a
// kernel. (The original Cell calls this the nucleus.)
//
// It has three layers, and uses only downwards:
//
//   - A [Supervisor] keeps the replicas of cells running: it starts, drains,
//     restarts and scales them. What it decides is in policy.go, as pure
//     functions; replica.go carries it out.
//   - A [Spawner] starts processes so that they can be killed, measured and
//     found again, whatever they do: in a cgroup of their own where there is
//     a writable cgroup2 hierarchy, and marked in their environment always.
//   - A [Sweeper] is the kernel's first child. It outlives the kernel by a
//     moment and ends whatever the kernel left behind.
//
// Two hidden commands of the program belong to it: `cellkernel __exec`
// ([ExecStub]) does what must happen between fork and exec, and
// `cellkernel __sweep` ([SweepMain]) is the sweeper.
package supervisor
