package catalog_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// A tcp transport hands its sockets over.
type tcp struct{}

func newTCP(context.Context, struct{}, plugin.Host) (tcp, error) { return tcp{}, nil }

func (tcp) Listen(ctx context.Context, addr sdk.Addr) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", addr.Host)
}

func (tcp) Dial(ctx context.Context, addr sdk.Addr) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", addr.Host)
}

// A pumped transport keeps its sockets, as one that encrypts must.
type pumped struct{ tcp }

func newPumped(context.Context, struct{}, plugin.Host) (pumped, error) { return pumped{}, nil }

func (p pumped) Listen(ctx context.Context, addr sdk.Addr) (net.Listener, error) {
	l, err := p.tcp.Listen(ctx, addr)
	return kept{l}, err
}

func (p pumped) Dial(ctx context.Context, addr sdk.Addr) (net.Conn, error) {
	c, err := p.tcp.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	return struct{ net.Conn }{c}, nil
}

type kept struct{ net.Listener }

func (k kept) Accept() (net.Conn, error) {
	c, err := k.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return struct{ net.Conn }{c}, nil
}

func (kept) Hint() []byte { return []byte("kept") }

// A book is a ledger that stores balances in a file.
type book struct {
	sdk.Ledger
	state  *os.Root
	stored struct {
		Head     sdk.Head
		Last     sdk.RecordID
		Balances map[sdk.Account]sdk.ATP
	}
}

func newBook(_ context.Context, _ struct{}, host plugin.Host) (*book, error) {
	return &book{state: host.State()}, nil
}

func (b *book) Open(context.Context) (sdk.Head, error) {
	b.stored.Balances = map[sdk.Account]sdk.ATP{}
	raw, err := b.state.ReadFile("book")
	if errors.Is(err, fs.ErrNotExist) {
		return sdk.Head{}, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &b.stored)
	}
	return b.stored.Head, err
}

func (b *book) Append(_ context.Context, after sdk.Head, batch []sdk.Record) (sdk.Head, error) {
	s := &b.stored
	switch {
	case batch[len(batch)-1].ID == s.Last:
		return s.Head, nil
	case after != s.Head:
		return sdk.Head{}, sdk.Errorf(sdk.CodeFenced, "the book ends at %d", s.Head.Seq)
	}
	for _, r := range batch {
		s.Head.Seq++
		s.Last = r.ID
		for _, p := range r.Postings {
			s.Balances[p.Account] += p.Amount
		}
	}
	raw, err := json.Marshal(s)
	if err == nil {
		err = b.state.WriteFile("book", raw, 0o600)
	}
	return s.Head, err
}

func (b *book) Balances(context.Context) (sdk.Head, map[sdk.Account]sdk.ATP, error) {
	return b.stored.Head, b.stored.Balances, nil
}

// A forgetful book begins anew and does not touch the file.
type forgetful struct{ *book }

func newForgetful(ctx context.Context, c struct{}, host plugin.Host) (forgetful, error) {
	b, err := newBook(ctx, c, host)
	return forgetful{b}, err
}

func (f forgetful) Open(context.Context) (sdk.Head, error) { return sdk.Head{}, nil }
