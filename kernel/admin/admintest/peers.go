package admintest

import (
	"context"
	"slices"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

// Peers implements [admin.Prober].
func (f *Fake) Peers(context.Context) (*admin.Peers, error) { return &f.Mates, f.Fail["Peers"] }

// Ping implements [admin.Prober].
func (f *Fake) Ping(_ context.Context, r admin.PingRequest, yield func(admin.Pulse) error) error {
	if !slices.ContainsFunc(f.Mates.Peers, func(p admin.Peer) bool { return p.Name == r.Node || string(p.Node) == r.Node }) {
		return sdk.Errorf(sdk.CodeNotFound, "ping %q: no such node", r.Node)
	}
	for i, p := range f.Pulses[:min(len(f.Pulses), r.Count)] {
		p.Seq = i + 1
		if err := yield(p); err != nil {
			return err
		}
	}
	return f.Fail["Ping"]
}

// Explain implements [admin.Prober].
func (f *Fake) Explain(_ context.Context, q admin.ExplainQuery) (*admin.Explanation, error) {
	e := f.Why
	e.Cell, e.Method, e.From = q.Cell, q.Method, q.From
	return &e, f.Fail["Explain"]
}
