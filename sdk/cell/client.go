package cell

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/flat"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// A Client calls the methods of one service over a Synapse. Generated clients
// wrap it. It is safe for concurrent use.
type Client struct {
	s      *Synapse
	desc   *Desc
	number int // of this client, per Synapse
}

// Client returns a client for the service that d describes.
func (s *Synapse) Client(d *Desc) *Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &Client{s: s, desc: d, number: s.clients}
	s.clients++
	return c
}

// methodIDs says what a client's methods are called on one link.
type methodIDs struct {
	ids  []uint16
	errs []*sdk.Error // why a method can not be called there
}

// method returns the id of a client's method on this link.
func (l *outLink) method(c *Client, n int) (uint16, *sdk.Error) {
	if t := l.tables.Load(); t != nil && c.number < len(*t) && (*t)[c.number] != nil {
		m := (*t)[c.number]
		return m.ids[n], m.errs[n]
	}
	m := l.resolve(c.desc)
	for {
		old := l.tables.Load()
		var next []*methodIDs
		if old != nil {
			next = append(next, *old...)
		}
		for len(next) <= c.number {
			next = append(next, nil)
		}
		next[c.number] = m
		if l.tables.CompareAndSwap(old, &next) {
			return m.ids[n], m.errs[n]
		}
	}
}

// resolve compares a service with the other side's table, method by method.
func (l *outLink) resolve(d *Desc) *methodIDs {
	m := &methodIDs{make([]uint16, len(d.Methods)), make([]*sdk.Error, len(d.Methods))}
	for i := range d.Methods {
		m.ids[i], m.errs[i] = l.resolveMethod(d.Name, &d.Methods[i])
	}
	return m
}

func (l *outLink) resolveMethod(service string, want *MethodDesc) (uint16, *sdk.Error) {
	id, have := l.find(func(s, m string) bool { return s == service && m == want.Name })
	if have == nil {
		return 0, sdk.Errorf(sdk.CodeNotFound, "call %s.%s: cell %q serves no such method", service, want.Name, l.peer.Cell)
	}
	if Shape(have.Shape) != want.Shape {
		return 0, l.incompatible(service, want, fmt.Errorf("shape %d here, %d there", want.Shape, have.Shape))
	}
	if err := flat.Compatible(want.In, flat.Layout(have.In)); err != nil {
		return 0, l.incompatible(service, want, fmt.Errorf("request: %w", err))
	}
	if err := flat.Compatible(want.Out, flat.Layout(have.Out)); err != nil {
		return 0, l.incompatible(service, want, fmt.Errorf("reply: %w", err))
	}
	return id, nil
}

func (l *outLink) incompatible(service string, m *MethodDesc, err error) *sdk.Error {
	return sdk.Errorf(sdk.CodeIncompatible, "call %s.%s: this cell and %q declare it differently: %v", service, m.Name, l.peer.Cell, err)
}

// find looks a method up in the other side's table.
func (l *outLink) find(match func(service, method string) bool) (uint16, *wire.Method) {
	id := uint16(0)
	for i := range l.theirs.Services {
		s := &l.theirs.Services[i]
		for j := range s.Methods {
			if match(s.Name, s.Methods[j].Name) {
				return id, &s.Methods[j]
			}
			id++
		}
	}
	return 0, nil
}

// Call calls a unary method, given by its index in the Desc, and returns the
// reply on lease. It retries where that is safe, within ctx's deadline or the
// default one of the axon. Errors are *[sdk.Error].
func (c *Client) Call(ctx context.Context, method int, in flat.Message) (Vesicle, error) {
	md := &c.desc.Methods[method]
	at := c.s.moment(ctx)
	h := handlerOf(ctx)
	h.pause(at.now)
	defer h.resume()
	c.s.earn()
	var last *outLink
	for attempt := 1; ; attempt++ {
		v, l, err := c.try(ctx, method, in, last, &at)
		if err == nil || !c.s.mayRetry(err, attempt, md.Idempotent) {
			return v, err
		}
		last = l
	}
}

// try makes one attempt and says over which link, if it came that far.
func (c *Client) try(ctx context.Context, method int, in flat.Message, avoid *outLink, at *moment) (Vesicle, *outLink, error) {
	l, err := c.s.pick(ctx, avoid, at)
	if err != nil {
		return Vesicle{}, nil, err
	}
	id, merr := l.method(c, method)
	if merr != nil {
		return Vesicle{}, l, merr
	}
	v, err := l.call(ctx, wire.Header{Aux: id}, in, at)
	return v, l, err
}

// call makes one unary call over one link and keeps its score.
func (l *outLink) call(ctx context.Context, h wire.Header, in flat.Message, at *moment) (Vesicle, error) {
	s, err := l.begin(ctx, at, nil)
	if err != nil {
		return Vesicle{}, err
	}
	begun := at.now
	if err := l.request(ctx, s, h, in, at); err != nil {
		return Vesicle{}, err
	}
	v, err := l.wait(ctx, s)
	if err == nil {
		return v, nil // the reader has taken the sample: its clock says when the reply came
	}
	now := nanos()
	at.now = now
	l.errors.Add(1)
	switch sdk.CodeOf(err) {
	case sdk.CodeOverloaded:
		l.score.overloaded(now)
	case sdk.CodeUnavailable, sdk.CodeDeadline:
		l.score.sample(at.deadline-begun, now)
	default:
		l.score.sample(now-begun, now)
	}
	return v, err
}

// Open begins a streaming method. The stream ends with ctx; its deadline is
// ctx's, and without one there is none. first is the request of a server
// stream and nil for the other shapes.
func (c *Client) Open(ctx context.Context, method int, first flat.Message) (*Stream, error) {
	at := c.s.moment(ctx)
	h := handlerOf(ctx)
	h.pause(at.now)
	defer h.resume()
	var last *outLink
	for attempt := 1; ; attempt++ {
		st, l, err := c.tryOpen(ctx, method, first, last, at)
		if err == nil || !c.s.mayRetry(err, attempt, false) {
			return st, err
		}
		last = l
	}
}

func (c *Client) tryOpen(ctx context.Context, method int, first flat.Message, avoid *outLink, at moment) (*Stream, *outLink, error) {
	l, err := c.s.pick(ctx, avoid, &at)
	if err != nil {
		return nil, nil, err
	}
	id, merr := l.method(c, method)
	if merr != nil {
		return nil, l, merr
	}
	if _, bounded := ctx.Deadline(); !bounded {
		at.deadline = 0 // the default one bounds the wait for a link, not the stream
	}
	st, err := l.open(ctx, wire.Header{Aux: id}, first, &at)
	return st, l, err
}

// CallJSON calls a unary method by name with a request in JSON and returns
// the reply in JSON. The name is "Service.Method", or "Method" where only one
// service has it. This is how callers without generated code call.
func (s *Synapse) CallJSON(ctx context.Context, method string, request []byte) ([]byte, error) {
	if !json.Valid(request) {
		return nil, sdk.Errorf(sdk.CodeInvalid, "call %q: request is not JSON", method)
	}
	at := s.moment(ctx)
	h := handlerOf(ctx)
	h.pause(at.now)
	defer h.resume()
	s.earn()
	var last *outLink
	for attempt := 1; ; attempt++ {
		out, idempotent, l, err := s.tryJSON(ctx, method, request, last, &at)
		if err == nil || !s.mayRetry(err, attempt, idempotent) {
			return out, err
		}
		last = l
	}
}

func (s *Synapse) tryJSON(ctx context.Context, name string, request []byte, avoid *outLink, at *moment) (out []byte, idempotent bool, l *outLink, err error) {
	l, err = s.pick(ctx, avoid, at)
	if err != nil {
		return nil, false, nil, err
	}
	id, m, err := l.byName(name)
	if err != nil {
		return nil, false, l, err
	}
	v, err := l.call(ctx, wire.Header{Aux: id, Flags: wire.FlagJSON}, new(bytesMessage(request)), at)
	if err != nil {
		return nil, m.Idempotent, l, err
	}
	out = append([]byte(nil), v.Bytes()...)
	v.Release()
	return out, m.Idempotent, l, nil
}

// byName finds a unary method by its full or its short name.
func (l *outLink) byName(name string) (uint16, *wire.Method, error) {
	service, method, full := strings.Cut(name, ".")
	matches := 0
	match := func(s, m string) bool {
		ok := full && s == service && m == method || !full && m == name
		if ok {
			matches++
		}
		return ok
	}
	id, m := l.find(match)
	switch {
	case m == nil:
		return 0, nil, sdk.Errorf(sdk.CodeNotFound, "call %q: cell %q serves no such method", name, l.peer.Cell)
	case Shape(m.Shape) != Unary:
		return 0, nil, sdk.Errorf(sdk.CodeInvalid, "call %q: the method streams", name)
	}
	matches = 0
	l.find(func(s, m string) bool { match(s, m); return false })
	if matches > 1 {
		return 0, nil, sdk.Errorf(sdk.CodeInvalid, "call %q: several services of %q have it: say Service.%s", name, l.peer.Cell, name)
	}
	return id, m, nil
}

// Services returns what the cell behind s serves, as one of its replicas says.
func (s *Synapse) Services(ctx context.Context) ([]wire.Service, error) {
	at := s.moment(ctx)
	l, err := s.pick(ctx, nil, &at)
	if err != nil {
		return nil, err
	}
	return l.theirs.Services, nil
}
