package probe

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/kernel/node"
	"github.com/cellkernel/cellkernel/kernel/peers"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

const (
	explainWait  = 5 * time.Second // for all addresses
	describeWait = 3 * time.Second // for the round trip and the methods
)

// Explain implements [admin.Prober].
func (p *Prober) Explain(ctx context.Context, q admin.ExplainQuery) (*admin.Explanation, error) {
	name := q.Cell
	if cell, at, far := strings.Cut(string(q.Cell), "@"); far {
		id, err := p.findNode(at)
		if err != nil {
			return nil, err
		}
		name = sdk.CellName(cell + "@" + id)
	}
	tryCtx, cancel := context.WithTimeout(ctx, explainWait)
	defer cancel()
	seen, err := p.opt.Golgi.Explain(tryCtx, q.From, name)
	if err != nil {
		return nil, err
	}
	x := explainer{p: p, rows: p.opt.Peers.Nodes(), out: &admin.Explanation{
		Cell: q.Cell, Method: q.Method, From: q.From, Left: seen.Left, Rules: []admin.ExplainRule{}, Endpoints: []admin.ExplainTarget{},
	}}
	for _, r := range seen.Rules {
		x.out.Rules = append(x.out.Rules, admin.ExplainRule(r))
	}
	for _, r := range seen.Reaches {
		x.out.Endpoints = append(x.out.Endpoints, x.target(r))
	}
	x.unroutable(q.Cell)
	x.judge(seen)
	if x.used != nil {
		if err := x.ask(ctx, q.Method); err != nil {
			return nil, err
		}
	}
	return x.out, nil
}

// An explainer puts together one explanation.
type explainer struct {
	p    *Prober
	rows []peers.Row
	out  *admin.Explanation
	used *golgi.Reach // the endpoint that is asked; nil: none answered
}

func (x *explainer) target(r golgi.Reach) admin.ExplainTarget {
	t := admin.ExplainTarget{
		Kind: r.Kind, Cell: r.Cell, ID: r.Endpoint, Node: r.Node, Replicas: r.Replicas, Secured: !r.Local,
		FoundBy: []admin.PeerOrigin{}, Tries: []admin.ExplainTry{},
	}
	if by := map[string]string{"local": byGenome, "junction": byNext, "address": byAxon}[r.Kind]; by != "" {
		t.FoundBy = append(t.FoundBy, admin.PeerOrigin{Source: by})
	} else if i := slices.IndexFunc(x.rows, func(row peers.Row) bool { return row.Node == r.Node }); i >= 0 {
		t.NodeName, t.FoundBy = string(x.rows[i].Name), originsOf(x.rows[i])
	}
	if r.Err != nil {
		t.Error = r.Err.Error()
	}
	for _, try := range r.Tries {
		e := admin.ExplainTry{Addr: try.Addr.String(), OK: try.Err == nil, DialledUS: try.Dialled.Microseconds(), TookUS: try.Took.Microseconds()}
		if try.Err != nil {
			e.Code, e.Error = unavailableCode(try.Err).String(), try.Err.Error()
		}
		t.Tries = append(t.Tries, e)
	}
	return t
}

// unavailableCode is what a call ends with whose link fails so.
func unavailableCode(err error) sdk.Code {
	if code := sdk.CodeOf(err); code != sdk.CodeApplication && code != sdk.CodeDeadline && code != sdk.CodeCancelled {
		return code
	}
	return sdk.CodeUnavailable
}

// unroutable adds the nodes that serve the cell and are not called, and why.
func (x *explainer) unroutable(name sdk.CellName) {
	for _, row := range x.rows {
		serves := slices.ContainsFunc(row.Cells, func(c peers.Cell) bool { return c.Name == name })
		tried := slices.ContainsFunc(x.out.Endpoints, func(t admin.ExplainTarget) bool { return t.Node == row.Node })
		if !serves || tried || row.Routable && row.State != peers.StateIncompatible {
			continue
		}
		why := fmt.Sprintf("the node is %s", row.State)
		if row.State == peers.StateIncompatible {
			why = fmt.Sprintf("the node speaks version %d of the wire format, this one %d", row.Wire, wire.Major)
		} else if row.State == peers.StateVerified {
			why = "the cell listens by no transport of this kernel"
		}
		x.out.Endpoints = append(x.out.Endpoints, admin.ExplainTarget{
			Kind: "node", Cell: name, Node: row.Node, NodeName: string(row.Name), FoundBy: originsOf(row), Error: why, Tries: []admin.ExplainTry{},
		})
	}
}

// judge says what a call would end with, and picks who is asked.
func (x *explainer) judge(seen *golgi.Explanation) {
	code, text, denied := sdk.CodeUnavailable, "", 0
	for i, r := range seen.Reaches {
		ok := slices.ContainsFunc(r.Tries, func(t golgi.Try) bool { return t.Err == nil })
		if ok && x.used == nil {
			x.used = &seen.Reaches[i]
		}
		if !ok && slices.ContainsFunc(r.Tries, func(t golgi.Try) bool { return sdk.CodeOf(t.Err) == sdk.CodeDenied }) {
			denied++
		}
	}
	switch {
	case x.used != nil:
		code, text = sdk.CodeOK, fmt.Sprintf("%q is reached", x.out.Cell)
	case seen.Failure != nil:
		code, text = seen.Failure.Code, seen.Failure.Text
	case len(seen.Reaches) == 0:
		text = fmt.Sprintf("nobody who is known serves %q", x.out.Cell)
	case denied == len(seen.Reaches):
		code, text = sdk.CodeDenied, fmt.Sprintf("all who serve %q refuse", x.out.Cell)
	default:
		text = fmt.Sprintf("%q is known, but nobody can be reached", x.out.Cell)
	}
	x.out.Code, x.out.Summary = code.String(), text
}

// ask measures a round trip and looks for the method.
func (x *explainer) ask(ctx context.Context, method string) error {
	r := x.used
	for _, t := range r.Tries {
		if t.Err == nil && (x.out.Used == nil || t.Took.Microseconds() < x.out.Used.RTTUS) {
			x.out.Used = &admin.ExplainPath{Addr: t.Addr.String(), Secured: !r.Local, RTTUS: t.Took.Microseconds(), Of: "link"}
		}
	}
	v, err := x.p.visit()
	if err != nil {
		return err
	}
	defer v.close()
	ctx, cancel := context.WithTimeout(ctx, describeWait)
	defer cancel()
	var methods []admin.Method
	switch r.Kind {
	case "local":
		methods, err = Methods(ctx, v.m, r.Cell)
	case "junction":
		err = fmt.Errorf("the kernel behind a junction answers its cells only")
	case "address":
		methods, err = x.far(ctx, v, strings.TrimSuffix(strings.TrimPrefix(r.Endpoint, "axon://"), "/"+string(r.Cell)))
	default:
		methods, err = x.far(ctx, v, string(r.Node))
	}
	x.method(method, methods, err)
	return nil
}

// far asks the kernel of another node: for a round trip, and what it serves.
func (x *explainer) far(ctx context.Context, v *visit, at string) ([]admin.Method, error) {
	for range 2 { // the first one waits for the link
		pulse, err := v.ping(ctx, at, describeWait)
		if err != nil {
			return nil, err
		}
		x.out.Used = &admin.ExplainPath{Addr: pulse.Path, Secured: pulse.Path != "local", RTTUS: pulse.RTTUS, Of: "ping"}
		for i := range x.out.Endpoints {
			if t := &x.out.Endpoints[i]; t.ID == x.used.Endpoint {
				t.Node, t.NodeName = pulse.Node, pulse.Name
			}
		}
	}
	if x.used.Cell == sdk.GolgiName {
		return Methods(ctx, v.m, sdk.CellName(string(sdk.GolgiName)+"@"+at))
	}
	said, err := v.kernelAt(at).Describe(ctx, &node.Question{Cell: string(x.used.Cell)})
	if err != nil {
		return nil, err
	}
	var list []admin.Method
	for _, m := range said.Methods {
		list = append(list, admin.Method{Service: m.Service, Name: m.Name, Streams: streams(cell.Shape(m.Shape))})
	}
	return list, nil
}

// method looks for the method that was asked about, "Work" or "Worker.Work".
func (x *explainer) method(want string, methods []admin.Method, err error) {
	found := &admin.ExplainMethod{Methods: []string{}}
	x.out.Found = found
	if err != nil {
		found.Error = err.Error()
		return
	}
	for _, m := range methods {
		full := m.Service + "." + m.Name
		found.Methods = append(found.Methods, full)
		if want == full || want == m.Name {
			found.Exists, found.Streams = true, m.Streams
		}
	}
	if want != "" && !found.Exists {
		x.out.Code, x.out.Summary = sdk.CodeNotFound.String(), fmt.Sprintf("%q is reached and has no method %q", x.out.Cell, want)
	}
}
