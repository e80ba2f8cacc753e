// Package peers is the table of who was seen: what any number of discovery
// plugins report, merged, bounded and forgotten in time. Golgi asks it who
// serves a cell and where to dial; the command `peers` prints it.
//
// The kernel opens and verifies what arrives. The table does no cryptography:
// it gets announcements that a member has signed, by [Table.See], and the tags
// of those that nobody here can open, by [Table.Foreign].
//
// # What is believed, and for how long
//
// A node says with every beat what it serves, under a boot that rises with
// each of its starts and a seq that rises within a boot. Only what is newer
// counts, so a replay changes nothing: a lower boot or seq is refused, also for
// an hour after the node has left the table. The same envelope may come by
// several ways within [SameBeat], each of which is a further address.
//
// A beat is believed for its time to live, at most [MaxFresh], counted from
// its arrival by our clock. Then the node is out of routing, and after [Keep]
// out of the table. A goodbye ends it at once. Two things stop this clock: a
// live link ([Table.Pin]), and an outage of all discoveries that knew the node
// ([Table.SourceDown]): then the last view is served, marked stale.
//
// A beat may have several parts. Each carries some of the cells and keeps
// alive only these, so a lost part costs nothing before it was lost for a
// whole time to live.
//
// # Limits
//
// Nothing that was verified ever makes room: when the table is full, new nodes
// are refused and counted. Foreign announcements have a small table of their
// own, in which they push out only each other.
//
// # Use
//
// All methods may be called at any time from any goroutine; none calls back
// and none blocks for long. [Table.Watch] reports changes from the goroutine
// that calls it, and is the clock that makes silence a change.
package peers
