// Package books holds the rules of money: what a node has earned and spent, to
// the CPU-microsecond, and why it may be believed. It is pure: it reads no
// clock, writes no file and sends nothing. kernel/settle gives it records to
// apply, stores what it makes in the ledger, and carries its messages.
//
// A [Book] is double entry over [sdk.Record]. Each record has the canonical
// binary of one [Op] as its body, and the postings that follow from it; a
// record whose postings say something else is no record of a book. Amounts are
// int64 and checked. The accounts of a node, which always sum to 0:
//
//	self          what it has: earned, less spent, less reserved
//	reserved/ID   set aside for work that node ID does for it
//	spent/ID      paid to ID
//	earned/ID     paid by ID, negative
//	claimed/ID    asked of ID and not signed by it yet, negative
//	disputed/ID   claimed of ID when it was caught cheating, negative
//	claims        the counterpart of the two
//	free/ID, free work done for ID that costs nothing
//
// What passes between two nodes is covered by a [Receipt] that both have
// signed: cumulative, so that the last one is the whole truth, and chained to
// the one before. The two sides of the protocol are [Payee] and [Payer]: they
// turn a message into a [Step], which says what to log first and what to send
// then. Each can be made anew from its book after a crash anywhere, and goes on
// where it was. One who signs two receipts with one number has made a [Proof],
// which convinces whoever sees it, and is blocked.
//
// The invariants are checked with every record, not in tests only. A book in
// which one does not hold is a [Violation] and does nothing any more.
package books
