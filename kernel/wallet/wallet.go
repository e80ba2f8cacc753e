// Package wallet shows people the book of a node: what it comes to, what each
// entry says and why, and receipts that somebody else can check. What it shows
// it takes out of records, so it works on a running kernel ([Teller]) and on
// files alike. It decides nothing: the rules are in kernel/books.
package wallet

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/kernel/settle"
	"github.com/cellkernel/cellkernel/sdk"
)

// minPrefix is how much of an id names a node.
const minPrefix = 4

// A Book is one that is kept: [settle.Settle].
type Book interface {
	// Wallet returns what the book comes to, all of one moment.
	Wallet() (settle.Wallet, error)
	// Records yields records, as [sdk.Ledger] does.
	Records(ctx context.Context, from uint64, yield func(sdk.Record) bool) error
	// SetCredit says how much a node may owe.
	SetCredit(ctx context.Context, id sdk.RecordID, n sdk.NodeID, amount sdk.ATP) error
}

// A Teller is an [admin.Banker] on the book of a kernel that runs.
type Teller struct {
	book Book
	name func() string                      // of this node
	seen func() map[sdk.NodeID]sdk.CellName // the names of others
	out  func(sdk.NodeID) bool              // who is denied
}

// NewTeller makes one. Name is what this node is called, seen how others are,
// denied says who may not come any more.
func NewTeller(b Book, name func() string, seen func() map[sdk.NodeID]sdk.CellName, denied func(sdk.NodeID) bool) *Teller {
	return &Teller{b, name, seen, denied}
}

var _ admin.Banker = (*Teller)(nil)

// Wallet implements [admin.Banker].
func (t *Teller) Wallet(context.Context) (*admin.Wallet, error) {
	w, err := t.book.Wallet()
	if err != nil {
		return nil, err
	}
	out := &admin.Wallet{
		Node: w.Node, Name: t.name(), Donor: w.Donor, Price: uint32(w.Price), Records: w.Head.Seq,
		Balance: w.Balance, Available: w.Available, Earned: w.Earned, Spent: w.Spent, Reserved: w.Reserved,
		Claimed: w.Claimed, Disputed: w.Disputed, Free: w.Free, Peers: []admin.WalletPeer{},
	}
	for i := range w.Peers {
		out.Peers = append(out.Peers, t.peer(&w.Peers[i], w.Credit))
	}
	return out, nil
}

// peer shows what there is with one node. Whom the book knows has been a member:
// while it is away, what it may owe is what it will be when it is back.
func (t *Teller) peer(p *settle.Peer, standard sdk.ATP) admin.WalletPeer {
	names, denied := t.seen(), t.out(p.Node)
	if !p.CreditSet && !p.Blocked && !denied {
		p.Credit = standard
	}
	return admin.WalletPeer{
		Node: p.Node, Name: string(names[p.Node]), Balance: p.Balance(), Earned: p.Earned, Spent: p.Spent, Reserved: p.Reserved,
		Open: p.Open, Claimed: p.Claimed, Disputed: p.Disputed, Free: p.Free, Credit: p.Credit, Default: !p.CreditSet, Blocked: p.Blocked, Denied: denied,
		Receipts: p.Peer.Paid.Seq + p.Earning.Seq, Refused: p.Refused,
	}
}

// SetCredit implements [admin.Banker].
func (t *Teller) SetCredit(ctx context.Context, who string, amount sdk.ATP) (*admin.WalletPeer, error) {
	if amount < 0 || amount > books.MaxAmount {
		return nil, sdk.Errorf(sdk.CodeInvalid, "credit of %s: want 0 to %s", amount, books.MaxAmount)
	}
	n, err := t.find(who)
	if err != nil {
		return nil, err
	}
	if err := t.book.SetCredit(ctx, settle.NewID(), n, amount); err != nil {
		return nil, err
	}
	w, err := t.book.Wallet()
	if err != nil {
		return nil, err
	}
	for i := range w.Peers {
		if w.Peers[i].Node == n {
			out := t.peer(&w.Peers[i], w.Credit)
			return &out, nil
		}
	}
	return nil, sdk.Errorf(sdk.CodeInternal, "credit of node %.80q: it is not in the book", who)
}

// find turns what people call a node into its id: one that was seen, or one
// that the book speaks of.
func (t *Teller) find(who string) (sdk.NodeID, error) {
	if id, err := sdk.ParseNodeID(who); err == nil {
		return id, nil
	}
	w, err := t.book.Wallet()
	if err != nil {
		return "", err
	}
	known := map[sdk.NodeID]sdk.CellName{}
	maps.Copy(known, t.seen())
	for _, p := range w.Peers {
		if _, seen := known[p.Node]; !seen {
			known[p.Node] = "" // its id is known, not its name
		}
	}
	var found []string
	for id, name := range known {
		if who != "" && string(name) == who || len(who) >= minPrefix && strings.HasPrefix(string(id), who) {
			found = append(found, string(id))
		}
	}
	slices.Sort(found)
	switch len(found) {
	case 0:
		return "", sdk.Errorf(sdk.CodeNotFound, "find node %.80q: no node of that name or id was seen, and the book has none", who)
	case 1:
		return sdk.NodeID(found[0]), nil
	}
	return "", sdk.Errorf(sdk.CodeInvalid, "find node %.80q: %d are called that: %s", who, len(found), strings.Join(found[:min(len(found), 8)], ", "))
}
