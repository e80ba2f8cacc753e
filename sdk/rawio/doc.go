// Package rawio reads and writes sockets without telling the scheduler.
//
// The system calls of a socket that does not block are short: they copy what
// it takes or has, which is less than a megabyte. Told of one, the scheduler
// wakes the thread that watches over system calls, and gives the processor of
// a thread that is in one for 20 µs, or that the machine does not run
// meanwhile, to another thread of the process, which then competes for what
// one had done. Not told, it leaves all threads where they are. The price: the
// garbage collector, when it stops all, waits for a copy.
//
// docs/decisions/0009-short-system-calls.md has the measurements.
package rawio
