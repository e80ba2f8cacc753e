// Package cell is what a cell links: its attachment to the kernel, its
// connections to other cells, and the links between them. It is thin: no
// gRPC, no plugins, no QUIC.
//
// # Serving
//
// A service is a Go interface marked //cell:service; cellkernel gen writes
// the rest. A cell registers its implementation and serves:
//
//	func main() {
//		cell.Main(func(ctx context.Context, m *cell.Membrane) error {
//			bench.RegisterWorker(m, worker{})
//			return m.Serve(ctx)
//		})
//	}
//
// A [Membrane] is the attachment. Handlers run concurrently, each with a
// context that ends with the caller's deadline, its cancellation, or the link.
// [Caller] tells who calls, [Meta] what came along.
//
// # Calling
//
// A [Synapse] is the connection to a named cell, whichever replicas answer:
//
//	w := bench.NewWorkerClient(m.Synapse("worker"))
//	res, err := w.Work(ctx, &bench.Job{Iterations: 5})
//
// Errors are [sdk.Error] and say whether the call was executed. What was
// certainly not is tried again elsewhere, at most three times in all; what may
// have been only if the method is marked //cell:idempotent. Without a deadline
// in ctx a call gets the axon's, 30 s unless the genome says otherwise.
//
// # Messages
//
// Generated code offers two forms of every method. The plain one copies
// messages into structs. The view form reads them where they lie in the
// receive buffer, on lease: a [Vesicle]. Views die with their message.
//
// # Links
//
// A link is one connected socket with one reader and no other process on it;
// it carries the calls of the cell that opened it, many at once, in any order.
// Senders append frames to a shared buffer and the first of them writes for
// all, so that a burst becomes one system call. The reader never blocks but
// in reading (writer.go says why). docs/wire.md is the format.
//
// Tests of cells need no kernel: see package celltest.
package cell
