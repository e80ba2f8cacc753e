package probe

import (
	"context"
	"slices"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/sdk"
)

// whyWait bounds the search for why a node does not answer: what refuses does
// so at once, and what is silent was waited for already.
const whyWait = time.Second

// reachable refuses at once what no waiting would help: a node that is kept
// out, one that nobody has seen, and any while this kernel has no network.
func (p *Prober) reachable(name, at string) error {
	id, err := sdk.ParseNodeID(at)
	if err == nil && id == p.opt.Node {
		return nil
	}
	if err == nil && p.opt.Denied(id) {
		return admin.WithCause(sdk.Errorf(sdk.CodeDenied, "ping %q: node %s is on the deny list of this mesh", name, id.Short()), admin.CauseKeptOut)
	}
	if g, cells := p.opt.Running(); !g.NeedsNetwork(cells) {
		return admin.WithCause(sdk.Errorf(sdk.CodeUnavailable, "ping %q: %s", name, noNetwork), admin.CauseNoNetwork)
	}
	if err != nil {
		return nil // an address: it is for dialling to say
	}
	for _, r := range p.opt.Peers.Nodes() {
		switch {
		case r.Node != id:
		case len(r.Addrs) == 0 && len(r.Cells) == 0:
			return admin.WithCause(sdk.Errorf(sdk.CodeUnavailable, "ping %q: node %s is %s: none of its cells listens for other machines", name, id.Short(), r.State), admin.CauseNotListening)
		case len(r.Addrs) == 0:
			return sdk.Errorf(sdk.CodeUnavailable, "ping %q: node %s is %s: it has no address that can be dialled", name, id.Short(), r.State)
		default:
			return nil
		}
	}
	return sdk.Errorf(sdk.CodeNotFound, "ping %q: no node of that id was seen", name)
}

// noNetwork is why a kernel whose cells are for its machine reaches no other.
const noNetwork = "this kernel reaches no other machine: none of its cells listens for them or calls them"

// why says what keeps a node from answering, as trying its addresses shows. A
// refusal says more than silence. If nothing is wrong now, it is what it was.
func (p *Prober) why(ctx context.Context, name, at string, was error) error {
	ctx, cancel := context.WithTimeout(ctx, whyWait)
	defer cancel()
	seen, err := p.opt.Golgi.Explain(ctx, "", sdk.CellName(string(sdk.GolgiName)+"@"+at))
	if err != nil {
		return err
	}
	causes := troubles(seen)
	if len(causes) == 0 {
		return sdk.Errorf(unreachable(was), "ping %q: %v", name, was)
	}
	if !slices.ContainsFunc(causes, spoken) && spoken(was) {
		causes = []error{was} // what was told once says more than silence since
	}
	said := causes[0]
	for _, want := range []sdk.Code{sdk.CodeDenied, sdk.CodeUnavailable, sdk.CodeOverloaded} {
		if i := slices.IndexFunc(causes, func(e error) bool { return unavailableCode(e) == want && spoken(e) }); i >= 0 {
			said = causes[i]
			break
		}
	}
	return sdk.Errorf(unavailableCode(said), "ping %q: %v", name, said)
}

// spoken reports whether an error is more than silence.
func spoken(err error) bool { return sdk.CodeOf(err) != sdk.CodeDeadline }

// troubles lists what went wrong with the endpoints of one name; nothing, if
// one of them can be reached.
func troubles(seen *golgi.Explanation) []error {
	var list []error
	if seen.Failure != nil {
		list = append(list, seen.Failure)
	}
	for _, r := range seen.Reaches {
		if r.Err != nil {
			list = append(list, r.Err)
		}
		for _, t := range r.Tries {
			if t.Err == nil {
				return nil
			}
			list = append(list, sdk.Errorf(sdk.CodeOf(t.Err), "%s: %v", t.Addr, t.Err))
		}
	}
	return list
}
