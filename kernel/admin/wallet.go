package admin

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// A Banker shows what a node has earned and spent. A node that keeps no book is
// [sdk.CodeUnavailable].
type Banker interface {
	// Wallet sums up the book.
	Wallet(ctx context.Context) (*Wallet, error)
	// Entries yields the entries of the book that q selects, oldest first.
	Entries(ctx context.Context, q EntryQuery, yield func(Entry) error) error
	// SetCredit says how much a node may owe this one, and returns what there
	// is with it. The node is named by its id, the beginning of it, or the name
	// that only one has.
	SetCredit(ctx context.Context, who string, amount sdk.ATP) (*WalletPeer, error)
}

// A Wallet is what a node has. All amounts are CPU-microseconds.
type Wallet struct {
	Node      sdk.NodeID   `json:"node"`
	Name      string       `json:"name"`
	Donor     bool         `json:"donor"`       // it charges for what it does
	Price     uint32       `json:"price_milli"` // of 100 ms of its CPU time, in thousandths of an ATP
	Records   uint64       `json:"records"`
	Balance   sdk.ATP      `json:"balance_us"`   // earned less spent
	Available sdk.ATP      `json:"available_us"` // to be spent, the debt that it may make included
	Earned    sdk.ATP      `json:"earned_us"`
	Spent     sdk.ATP      `json:"spent_us"`
	Reserved  sdk.ATP      `json:"reserved_us"` // set aside for work that goes on
	Claimed   sdk.ATP      `json:"claimed_us"`  // asked for and not signed yet
	Disputed  sdk.ATP      `json:"disputed_us"` // asked of nodes that were caught cheating
	Free      sdk.ATP      `json:"free_us"`     // CPU time given away
	Peers     []WalletPeer `json:"peers"`
}

// A WalletPeer is the same for one other node.
type WalletPeer struct {
	Node     sdk.NodeID `json:"node"`
	Name     string     `json:"name,omitempty"` // empty: it was not heard since the start
	Balance  sdk.ATP    `json:"balance_us"`     // what it owes this node; negative: the other way round
	Earned   sdk.ATP    `json:"earned_us"`
	Spent    sdk.ATP    `json:"spent_us"`
	Reserved sdk.ATP    `json:"reserved_us"`
	Open     sdk.ATP    `json:"open_us"` // used by it, and not asked for yet
	Claimed  sdk.ATP    `json:"claimed_us"`
	Disputed sdk.ATP    `json:"disputed_us"`
	Free     sdk.ATP    `json:"free_us"`
	Credit   sdk.ATP    `json:"credit_us"`         // how much it may owe this node
	Default  bool       `json:"default"`           // nobody has said so: it is what every member has
	Blocked  bool       `json:"blocked"`           // it was caught cheating
	Denied   bool       `json:"denied"`            // it may not come any more: see "cellkernel deny"
	Receipts uint64     `json:"receipts"`          // with both signatures, of the latest epochs
	Refused  string     `json:"refused,omitempty"` // why this node does not sign what it asks for
}

// An EntryQuery selects entries. The zero EntryQuery is the whole book.
type EntryQuery struct {
	Seq      uint64    // only this one
	Since    time.Time // zero: from the beginning
	Tail     int       // at most so many, the last ones; 0: all; at most MaxTail
	Peer     string    // only those about a node; as in [Banker].SetCredit
	Receipts bool      // only receipts with both signatures
}

// An Entry is a record of a book, and what it says.
type Entry struct {
	Seq      uint64         `json:"seq"`
	ID       string         `json:"id"`
	Time     time.Time      `json:"time"`
	What     string         `json:"what"` // "credit", "reserve", "void", "claim", "earn", "spend", "adopt", "block", "free", "snapshot"
	Peer     sdk.NodeID     `json:"peer,omitempty"`
	PeerName string         `json:"peer_name,omitempty"`
	Amount   sdk.ATP        `json:"amount_us"`
	Postings []EntryPosting `json:"postings"`
	Jobs     []EntryJob     `json:"jobs,omitempty"` // what it is for; of an "earn" those of its "claim"
	Receipt  *EntryReceipt  `json:"receipt,omitempty"`
	Body     []byte         `json:"body,omitempty"` // as it is stored; see package kernel/books
}

// An EntryPosting moves an amount onto an account.
type EntryPosting struct {
	Account sdk.Account `json:"account"`
	Amount  sdk.ATP     `json:"amount_us"`
}

// An EntryJob is a line of a bill.
type EntryJob struct {
	From   sdk.CellName `json:"from"`
	Cell   sdk.CellName `json:"cell"`
	Method string       `json:"method"`
	Calls  uint64       `json:"calls"`
	CPU    sdk.ATP      `json:"cpu_us"`
	Meter  string       `json:"meter"`
	Price  uint32       `json:"price_milli"` // as in [Wallet]
	Amount sdk.ATP      `json:"amount_us"`
}

// An EntryReceipt is a receipt, whose sums are cumulative, and whether its
// signatures hold.
type EntryReceipt struct {
	Payer       sdk.NodeID `json:"payer"`
	Payee       sdk.NodeID `json:"payee"`
	Epoch       uint64     `json:"epoch"`
	Seq         uint64     `json:"seq"`
	CPU         sdk.ATP    `json:"cpu_us"`
	Amount      sdk.ATP    `json:"amount_us"`
	Calls       uint64     `json:"calls"`
	From        time.Time  `json:"from"`
	To          time.Time  `json:"to"`
	PayeeSigned bool       `json:"payee_signed"`
	PayerSigned bool       `json:"payer_signed"`
	Signed      []byte     `json:"signed"` // the receipt and both signatures, to the byte
}

// Wallet implements [Banker].
func (c *Client) Wallet(ctx context.Context) (*Wallet, error) {
	return fetch[*Wallet](ctx, c, "wallet")
}

// Entries implements [Banker].
func (c *Client) Entries(ctx context.Context, q EntryQuery, yield func(Entry) error) error {
	v := url.Values{"peer": {q.Peer}, "tail": {strconv.Itoa(q.Tail)}, "seq": {strconv.FormatUint(q.Seq, 10)}}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.Format(time.RFC3339Nano))
	}
	if q.Receipts {
		v.Set("receipts", "true")
	}
	return follow(ctx, c, streamRequest{method: http.MethodGet, path: "wallet/entries", query: v}, yield)
}

// creditRequest is the body of a change of credit.
type creditRequest struct {
	Peer   string  `json:"peer"`
	Amount sdk.ATP `json:"amount_us"`
}

// SetCredit implements [Banker].
func (c *Client) SetCredit(ctx context.Context, who string, amount sdk.ATP) (*WalletPeer, error) {
	return post[*WalletPeer](ctx, c, "wallet/credit", nil, creditRequest{who, amount})
}

// walletRoutes are the requests of a [Banker].
func (s *Server) walletRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/wallet", s.answer(func(_ http.ResponseWriter, r *http.Request) (any, error) {
		return s.kernel.Wallet(r.Context())
	}))
	mux.HandleFunc("GET /v1/wallet/entries", s.entries)
	mux.HandleFunc("POST /v1/wallet/credit", s.answer(func(w http.ResponseWriter, r *http.Request) (any, error) {
		var q creditRequest
		if err := decode(w, r, &q); err != nil {
			return nil, err
		}
		if q.Amount < 0 {
			return nil, sdk.Errorf(sdk.CodeInvalid, "credit of %s: want 0 or more", q.Amount)
		}
		return s.kernel.SetCredit(r.Context(), q.Peer, q.Amount)
	}))
}

func (s *Server) entries(w http.ResponseWriter, r *http.Request) {
	q, err := parseEntryQuery(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.serveStream(w, r, func(ctx context.Context, yield func(uint64, any) error) error {
		return s.kernel.Entries(ctx, q, func(e Entry) error { return yield(0, e) })
	})
}

func parseEntryQuery(r *http.Request) (EntryQuery, error) {
	q := EntryQuery{Peer: r.FormValue("peer"), Receipts: r.FormValue("receipts") == "true"}
	tail, err := number(r, "tail", MaxTail)
	if err != nil {
		return q, err
	}
	seq, err := number(r, "seq", 1<<62)
	if err != nil {
		return q, err
	}
	q.Tail, q.Seq = int(tail), uint64(seq)
	if since := r.FormValue("since"); since != "" {
		if q.Since, err = time.Parse(time.RFC3339Nano, since); err != nil {
			return q, sdk.Errorf(sdk.CodeInvalid, "parameter since=%.40q: want a time like 2006-01-02T15:04:05Z", since)
		}
	}
	return q, nil
}
