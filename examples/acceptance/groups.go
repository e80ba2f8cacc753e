package main

import (
	"slices"
	"time"
)

// unharmed is the bound of all rows of attacks.
const unharmed = "<= 64 MiB, <= 2 x, one line each"

// groups are all rows, in the order in which they are tried.
func groups() []group { return slices.Concat(speed(), death(), order(), money(), network()) }

// speed is how fast things are while nothing goes wrong.
func speed() []group {
	return []group{
		{"boot", 5 * time.Minute, []row{
			{ID: "hello-median", What: "up examples/hello, binaries up to date: to the job's line, median of 10", Bound: "<= 1 s"},
			{ID: "hello-worst", What: "the same, the worst of 10", Bound: "<= 2 s"},
			{ID: "boot-plugins", What: "a kernel and its plugins ready, median of 10", Bound: "<= 300 ms"},
			{ID: "plugin-rss", What: "memory of the largest plugin: its own (RssAnon) and pages of the program, which it shares with the kernel (RssFile)", Bound: "<= 20 MB"},
			{ID: "idle-cpu", What: "CPU of a kernel, its plugins and 5 cells that do nothing, in 10 s", Bound: "<= 50 ms"},
		}, tryBoot},
		{"bench", 10 * time.Minute, []row{
			{ID: "bench-64", What: "calls/s by gRPC, 64 B, 64 in flight", Bound: ">= 10 x"},
			{ID: "bench-256", What: "calls/s by gRPC, 64 B, 256 in flight", Bound: ">= 20 x"},
			{ID: "bench-64k", What: "calls/s by gRPC, 64 KiB, 8 in flight", Bound: ">= 6 x"},
			{ID: "bench-median", What: "median by that of the raw socket, 64 B, 1 in flight", Bound: "<= 1.5 x"},
			{ID: "bench-rate", What: "calls/s, 64 B, 64 in flight", Bound: ">= 100000"},
			{ID: "bench-errors", What: "errors of all rows, and claims that do not hold", Bound: "0, 0"},
			{ID: "burn-cpu", What: "CPU of the workers by calls x 1 ms", Bound: ">= 0.95"},
			{ID: "burn-scale", What: "four replicas by one, on two cores or more", Bound: ">= 1.7 x"},
		}, tryBench},
		{"far", 8 * time.Minute, []row{
			{ID: "far-64", What: "between two machines, QUIC and Noise: calls/s by gRPC over TCP and TLS, 64 B, 64 in flight", Bound: ">= 3 x"},
			{ID: "far-256", What: "the same, 256 in flight", Bound: ">= 7 x"},
			{ID: "far-64k", What: "the same, 64 KiB, 8 in flight, by quic-go alone", Bound: ">= 0.6 x"},
			{ID: "far-errors", What: "the same: errors of all systems, replies that are not right among them", Bound: "0"},
		}, tryFar},
		{"mesh", 5 * time.Minute, []row{
			{ID: "mesh-boot", What: "50 replicas serve after the start of up, binaries up to date", Bound: "<= 2 s"},
			{ID: "mesh-rate", What: "messages/s for 30 s", Bound: ">= 10000"},
			{ID: "mesh-equal", What: "messages received by messages sent", Bound: "equal"},
			{ID: "mesh-p99", What: "one-way latency of 99 of 100 messages", Bound: "< 5 ms"},
			{ID: "mesh-reach", What: "others every replica reached; messages to oneself", Bound: ">= 10; 0"},
			{ID: "mesh-share", What: "share of 10000 plain calls that a replica answered", Bound: "1-4 %"},
		}, tryMesh},
	}
}

// death is what happens when processes die or stand still.
func death() []group {
	return []group{
		{"worker", 5 * time.Minute, []row{
			{ID: "worker-late", What: "one of four replicas killed 20 times at 2000 calls/s: calls outlive their deadline by", Bound: "<= 100 ms"},
			{ID: "worker-idempotent", What: "the same: failed calls of idempotent methods", Bound: "0"},
			{ID: "worker-others", What: "the same: failed calls of others that are not unavailable", Bound: "0"},
			{ID: "worker-back", What: "the same: until the replica is ready again, the worst", Bound: "<= 1 s"},
		}, tryWorker},
		{"plugin", 10 * time.Minute, []row{
			{ID: "plugin-kill", What: "every plugin killed 10 times: ready again, the worst", Bound: "<= 1 s"},
			{ID: "plugin-stop", What: "every plugin stopped 10 times: noticed, the worst", Bound: "<= 3 s"},
			{ID: "plugin-replace", What: "the same: ready again, the worst", Bound: "<= 5 s"},
			{ID: "plugin-calls", What: "failed calls between local cells meanwhile", Bound: "0"},
		}, tryPlugin},
		{"freeze", 8 * time.Minute, []row{
			{ID: "freeze-rate", What: "kernel and plugins stopped for 10 s, 5 rounds, 64 calls in flight in a closed loop: rate by the mean of the 10 s before and after, the worst", Bound: ">= 0.9"},
			{ID: "freeze-calls", What: "the same: failed calls", Bound: "0"},
			{ID: "freeze-restarts", What: "the same: processes started again afterwards", Bound: "0"},
			{ID: "freeze-link", What: "the same: a link asked for meanwhile is there after it, the worst", Bound: "<= 1 s"},
		}, tryFreeze},
		{"crash", 8 * time.Minute, []row{
			{ID: "crash-left", What: "kernel killed 30 times beside a cell that forks, setsids and ignores SIGTERM: processes left after 2 s", Bound: "0"},
			{ID: "crash-next", What: "the same: the next up starts clean", Bound: "30 of 30"},
		}, tryCrash},
	}
}

// order is what mistakes, strangers and changes do.
func order() []group {
	return []group{
		{"fail", 3 * time.Minute, []row{
			{ID: "fail-exit", What: "a cell that exits at start: up fails, names it, shows its last lines", Bound: "<= 1 s"},
			{ID: "fail-messages", What: "genomes with a mistake that up explains at once, with the exit code of its kind", Bound: "8 of 8, <= 1 s"},
		}, tryFail},
		{"links", 5 * time.Minute, []row{
			{ID: "links-fds", What: "10000 links opened and closed by hand, 10000 by the sdk: descriptors more in kernel, plugin or one of both cells", Bound: "0"},
			{ID: "links-goroutines", What: "the same: goroutines more in one of them", Bound: "0"},
			{ID: "links-heap", What: "the same: heap more in one of them", Bound: "<= 1 MiB"},
		}, tryLinks},
		{"hostile", 8 * time.Minute, []row{
			{ID: "hostile-length", What: "100 links that announce 4 GiB: memory more of kernel and target, bystanders' p99 by that before, lines that name the culprit", Bound: unharmed},
			{ID: "hostile-garbage", What: "the same for 100 links that speak HTTP", Bound: unharmed},
			{ID: "hostile-early", What: "the same for 100 links with calls before settings", Bound: unharmed},
			{ID: "hostile-split", What: "the same for 100 links with frames cut at every byte, which are understood, then a request that another frame cuts", Bound: unharmed},
			{ID: "hostile-slow", What: "the same for 20 links with one byte a second", Bound: unharmed},
			{ID: "hostile-handler", What: "the same for 64 calls of a handler that never returns; the one line names method and caller", Bound: unharmed},
			{ID: "hostile-flood", What: "the same for a cell that writes without end to its log, slowed; one line names it", Bound: unharmed},
			{ID: "hostile-disk", What: "the same with a full disk under the logs; one line names the log", Bound: unharmed},
		}, tryHostile},
		{"roll", 4 * time.Minute, []row{
			{ID: "roll-calls", What: "four replicas replaced by a version with an added field and method, at 2000 calls/s: failed calls", Bound: "0"},
			{ID: "roll-new", What: "the same: the added method answers", Bound: "yes"},
			{ID: "roll-only", What: "up with an edited genome: processes touched that did not change", Bound: "0"},
		}, tryRoll},
		{"static", 2 * time.Minute, []row{
			{ID: "static-linked", What: "cellkernel built without cgo needs no loader", Bound: "yes"},
			{ID: "static-boot", What: "it boots built cells in an empty root directory", Bound: "yes"},
		}, tryStatic},
		{"readme", 30 * time.Minute, []row{
			{ID: "readme-up", What: "fresh clone: go run ./cmd/cellkernel up examples/bench/genome.toml", Bound: "exit code 0"},
			{ID: "readme-test", What: "fresh clone: go test ./...", Bound: "exit code 0"},
		}, tryReadme},
	}
}

// money is how much was used, and by whom.
func money() []group {
	return []group{
		{"meter", 15 * time.Minute, []row{
			{ID: "meter-rusage", What: "four cells contend for two cores for 10 s: what ps says of each by its own getrusage, the worst", Bound: "<= 1 %"},
			{ID: "meter-kill", What: "the same, the billing plugin killed in the middle: what was metered by what all have used", Bound: "<= 1 %"},
			{ID: "meter-sleep", What: "CPU of a cell that sleeps", Bound: "<= 20 ms"},
			{ID: "meter-callers", What: "three callers of one cell: one burns 10 s, one holds a stream, one has it sleep: their shares", Bound: ">= 98 %, <= 1 %, <= 1 %"},
			{ID: "meter-ratio", What: "two callers burn 7.5 s and 2.5 s at once: what one is charged by the other", Bound: "3 +- 5 %"},
		}, tryMeter},
		{"money-ledger", 5 * time.Minute, []row{
			{ID: "ledger-rate", What: "64 callers wait for their record to be durable: records/s, by group commit", Bound: ">= 2000"},
			{ID: "ledger-p99", What: "the same: how long 99 of 100 wait", Bound: "<= 25 ms"},
		}, tryMoneyLedger},
		{"money-million", 20 * time.Minute, []row{
			{ID: "million-verify", What: "ledger verify of a book of 1000000 records, half of them receipts: time, and memory of the command", Bound: "<= 10 s, <= 200 MB"},
			{ID: "million-boot", What: "a kernel with that book is ready", Bound: "<= 2 s"},
		}, tryMillion},
		{"money-swap", 10 * time.Minute, []row{
			{ID: "ledger-swap", What: "the ledger of a donor, then of its client, exchanged under load: earned by spent", Bound: "equal"},
		}, tryMoneySwap},
		{"money-crash", time.Hour, []row{
			{ID: "crash-kills", What: "a ledger killed at a system call, each in turn: what was acknowledged is there, and 50 operations work", Bound: ">= 1000 points, all"},
			{ID: "crash-fails", What: "a system call of it fails, each in turn: the same", Bound: ">= 600, all"},
			{ID: "crash-power", What: "the power is cut twice, for each seed: the same", Bound: ">= 5000 cuts, all"},
			{ID: "crash-bytes", What: "every byte of a book of 64 KiB changed: undetected, but for the torn tail of one that was not closed", Bound: ">= 65536, 0"},
			{ID: "crash-zero", What: "files of a book empty, cut, zero or other words: never taken for an empty book", Bound: "PASS"},
		}, tryMoneyCrash},
		{"money-cheats", 20 * time.Minute, []row{
			{ID: "cheat-silent", What: "a payer's kernel that signs nothing, against a real donor, with a restart: what it took by the donor's meter", Bound: "DESIGN 9"},
			{ID: "cheat-stopped", What: "a payer's kernel that is stopped while its cells call on", Bound: "DESIGN 9, round trip measured"},
			{ID: "cheat-claims", What: "a donor's kernel that claims ten times of what its meter says: what a real client signed", Bound: "cores x time x 1.02"},
			{ID: "cheat-twice", What: "a donor's kernel that signs two receipts with one number: beyond what it did; it is blocked", Bound: "0 ATP"},
			{ID: "cheat-replay", What: "a donor's kernel that shows settled receipts again: the same", Bound: "0 ATP"},
		}, tryMoneyCheats},
		{"money-trade", 15 * time.Minute, []row{
			{ID: "trade-bench", What: "the bench between two new nodes with default settings, one a donor: errors", Bound: "0"},
			{ID: "trade-wallets", What: "the same: spent by earned, in microseconds", Bound: "equal"},
		}, tryTrade},
		{"money-cost", 6 * time.Minute, []row{
			{ID: "trade-cost", What: "64 calls of 64 B in flight to another machine, billed and not, 20 alternating pairs of 3 s: time more, median", Bound: "<= 3 %, receipts flow"},
		}, tryCost},
		{"money-kills", time.Hour, []row{
			{ID: "money-kills", What: "a donor and its client under load, 200 random kills of kernels, ledgers and meters: earned by spent", Bound: "equal"},
			{ID: "money-agree", What: "the same: until both books say so, both kernels being up", Bound: "<= 5 s"},
		}, tryMoneyKills},
	}
}
