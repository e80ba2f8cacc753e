// Package settle carries out the rules of kernel/books: it owns the one writer
// of the ledger, turns what the meters say into bills, and agrees on them with
// other nodes.
//
//	writer.go    everything that waits to be booked becomes one batch
//	donor.go     what others used becomes proposals, and leases to the cells
//	payer.go     a session with every donor whose cells are called
//	api.go       what people ask: wallet, history, why
//
// A node that is a donor charges for what others use; any other serves them
// free and books that. Before a cell calls one of a donor for the first time,
// its kernel holds a session with the donor's kernel, has reserved what the
// donor may do on trust, and has said so: see [Settle.Ensure].
//
// While the ledger is down nothing is signed. Work goes on until the exposure is
// at its bound, and is refused then; meters count on, so nothing is lost.
package settle
