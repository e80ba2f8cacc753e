package peers

// A Verdict is what became of an announcement.
type Verdict uint8

// The verdicts. Up to [VerdictLeft] the table has taken it.
const (
	VerdictNew       Verdict = iota // of a node that was not there, or has started anew
	VerdictRefreshed                // news of a node that is known
	VerdictAdded                    // the same beat by a further way
	VerdictLeft                     // a goodbye
	VerdictOld                      // nothing new: an echo, or a seq that has passed
	VerdictReplayed                 // of a boot that has passed, or a rival of a fresh one
	VerdictSelf                     // our own
	VerdictDenied                   // of a node on the deny list
	VerdictFull                     // no room for it
	VerdictInvalid                  // beyond a limit, or from no address
	verdicts
)

var verdictNames = [verdicts]string{"new", "refreshed", "added", "left", "old", "replayed", "self", "denied", "full", "invalid"}

// String returns the verdict's name, as metrics label it.
func (v Verdict) String() string {
	if v < verdicts {
		return verdictNames[v]
	}
	return "unknown"
}

// Taken reports whether the table has learnt something.
func (v Verdict) Taken() bool { return v <= VerdictLeft }
