package admin

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/cellkernel/cellkernel/sdk"
)

// MaxPings is how often one [Prober.Ping] may ask.
const MaxPings = 10_000

// A Prober shows other nodes, and how they and their cells are reached.
type Prober interface {
	// Peers lists who is known, how it was found, and how far away it is. It
	// takes a second at most; what did not answer by then has no RTT.
	Peers(ctx context.Context) (*Peers, error)
	// Ping calls the kernel of a node r.Count times and yields what each time
	// became of it. A node that nobody knows is [sdk.CodeNotFound], one that
	// never answers [sdk.CodeUnavailable].
	Ping(ctx context.Context, r PingRequest, yield func(Pulse) error) error
	// Explain says how a name is found and tries every address behind it.
	// That nobody answers is no error: the explanation says it.
	Explain(ctx context.Context, q ExplainQuery) (*Explanation, error)
}

// Peers is who is known of the mesh.
type Peers struct {
	Mesh    string       `json:"mesh"`
	Self    Peer         `json:"self"`
	Sources []PeerSource `json:"sources"`
	Peers   []Peer       `json:"peers"` // members by name, then addresses of axons, then foreign ones
}

// A PeerSource is a discovery and how it does.
type PeerSource struct {
	Name    string `json:"name"`
	Up      bool   `json:"up"`
	Synced  bool   `json:"synced"`   // it has told all it knew when it came up
	SinceMS int64  `json:"since_ms"` // how long it is up or down
	LastMS  int64  `json:"last_ms"`  // age of its last event; -1: none yet
	Nodes   int    `json:"nodes"`    // that it sees
}

// A PeerState says what a [Peer] is worth.
type PeerState string

// The states of peers.
const (
	PeerSelf         PeerState = "self"         // this node
	PeerVerified     PeerState = "verified"     // a member, heard lately, or linked to at an address of an axon
	PeerStale        PeerState = "stale"        // a member, not heard lately
	PeerIncompatible PeerState = "incompatible" // a member that speaks another wire format
	PeerGone         PeerState = "gone"         // a member that has left
	PeerForeign      PeerState = "foreign"      // of another mesh, or made up
	PeerUnknown      PeerState = "unknown"      // an address of an axon at which no member has answered
)

// A Peer is a node, or something that announces itself.
type Peer struct {
	Node     sdk.NodeID   `json:"node,omitempty"`
	Name     string       `json:"name,omitempty"`
	State    PeerState    `json:"state"`
	Routable bool         `json:"routable"` // calls are sent there
	Donor    bool         `json:"donor"`
	Links    int          `json:"links"`
	Cells    []PeerCell   `json:"cells"`
	Addrs    []string     `json:"addrs"`   // where its kernel is dialled, the best first; of this node: where it listens
	Origins  []PeerOrigin `json:"origins"` // by whom and where it was seen, the latest first
	HeardMS  int64        `json:"heard_ms"`
	// RTTUS is a round trip to its kernel in microseconds; 0 if that is not
	// known. Foreign ones are never asked.
	RTTUS   int64  `json:"rtt_us,omitempty"`
	MeshTag string `json:"mesh_tag,omitempty"` // of a foreign one, hexadecimal
	Wire    uint8  `json:"wire,omitempty"`     // major version of the wire format it speaks
}

// A PeerCell is a cell that a peer serves to others.
type PeerCell struct {
	Name     sdk.CellName `json:"name"`
	Replicas int          `json:"replicas"`
}

// A PeerOrigin is by whom and where a peer was seen.
type PeerOrigin struct {
	Source string `json:"source"` // a discovery, or "axon", "listen", "genome", "junction"
	Addr   string `json:"addr,omitempty"`
	AgeMS  int64  `json:"age_ms"`
	// NATPort is the port that the node's socket had before a NAT replaced it.
	NATPort uint16 `json:"nat_port,omitempty"`
}

// A PingRequest names whom to ask: a node by its id, the beginning of it or its
// name, or where one listens, "10.0.0.2:9000".
type PingRequest struct {
	Node  string
	Count int // at most MaxPings
}

// A Pulse is the answer to one ping, or what came instead.
type Pulse struct {
	Seq     int        `json:"seq"`
	Node    sdk.NodeID `json:"node,omitempty"` // proved by its certificate
	Name    string     `json:"name,omitempty"`
	Version string     `json:"version,omitempty"`
	Path    string     `json:"path,omitempty"` // "quic://10.0.0.2:9000", "local"
	RTTUS   int64      `json:"rtt_us,omitempty"`
	// ConnectUS is how long the link took, of the first one.
	ConnectUS int64  `json:"connect_us,omitempty"`
	Error     string `json:"error,omitempty"`
}

// An ExplainQuery asks how From, or the command line if it is empty, reaches
// a cell by the name Cell, "store" or, of one node, "store@NODE", and whether that has Method, if it is not empty.
type ExplainQuery struct {
	Cell   sdk.CellName
	Method string
	From   sdk.CellName
}

// An Explanation says how a cell is reached, or why not.
type Explanation struct {
	Cell      sdk.CellName    `json:"cell"`
	Method    string          `json:"method,omitempty"`
	From      sdk.CellName    `json:"from,omitempty"`
	Code      string          `json:"code"` // "ok", or what a call would end with: "unavailable"
	Summary   string          `json:"summary"`
	Rules     []ExplainRule   `json:"rules"`
	Endpoints []ExplainTarget `json:"endpoints"`
	Left      int             `json:"left,omitempty"` // endpoints that were too many to try
	Used      *ExplainPath    `json:"used,omitempty"` // the path that the round trip went; absent: none
	Found     *ExplainMethod  `json:"found,omitempty"`
}

// An ExplainRule is a line of the manifest that allows or forbids.
type ExplainRule struct {
	Key  string `json:"key"` // "axon", "junction", "peers", "allow", "listen", "encrypt"
	OK   bool   `json:"ok"`
	Text string `json:"text"`
}

// An ExplainTarget is an endpoint and what became of trying it.
type ExplainTarget struct {
	Kind     string       `json:"kind"` // "local", "junction", "address", "node"
	Cell     sdk.CellName `json:"cell"`
	ID       string       `json:"id"` // "worker#2@7"
	Node     sdk.NodeID   `json:"node,omitempty"`
	NodeName string       `json:"node_name,omitempty"`
	Replicas int          `json:"replicas"`
	FoundBy  []PeerOrigin `json:"found_by"`
	Secured  bool         `json:"secured"` // links to it are encrypted and both ends proved
	Error    string       `json:"error,omitempty"`
	Tries    []ExplainTry `json:"tries"`
}

// An ExplainTry is one address.
type ExplainTry struct {
	Addr      string `json:"addr"`
	OK        bool   `json:"ok"`
	DialledUS int64  `json:"dialled_us"`
	TookUS    int64  `json:"took_us"`
	Code      string `json:"code,omitempty"` // of what failed
	Error     string `json:"error,omitempty"`
}

// An ExplainPath is the way a round trip went.
type ExplainPath struct {
	Addr    string `json:"addr"`
	Secured bool   `json:"secured"`
	RTTUS   int64  `json:"rtt_us"`
	// Of says what made the round trip: "ping" of the node's kernel, or "link",
	// an address dialled and answered.
	Of string `json:"of"`
}

// An ExplainMethod says whether a method exists.
type ExplainMethod struct {
	Exists  bool     `json:"exists"`
	Streams string   `json:"streams,omitempty"` // as in [Method]
	Methods []string `json:"methods"`           // all that the cell serves: "Worker.Work"
	Error   string   `json:"error,omitempty"`   // why nobody could be asked
}

// probeRoutes are the requests of a [Prober].
func (s *Server) probeRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/peers", s.answer(func(_ http.ResponseWriter, r *http.Request) (any, error) {
		return s.kernel.Peers(r.Context())
	}))
	mux.HandleFunc("GET /v1/explain", s.answer(func(_ http.ResponseWriter, r *http.Request) (any, error) {
		q, err := parseExplain(r)
		if err != nil {
			return nil, err
		}
		return s.kernel.Explain(r.Context(), q)
	}))
	mux.HandleFunc("GET /v1/ping", s.ping)
}

func parseExplain(r *http.Request) (ExplainQuery, error) {
	q := ExplainQuery{Method: r.FormValue("method")}
	var err error
	name, at, far := strings.Cut(r.FormValue("cell"), "@")
	if q.Cell, err = sdk.ParseCellName(name); err != nil {
		return q, sdk.Errorf(sdk.CodeInvalid, "%v", err)
	}
	if far {
		q.Cell += sdk.CellName("@" + at)
	}
	if from := r.FormValue("from"); from != "" {
		if q.From, err = sdk.ParseCellName(from); err != nil {
			return q, sdk.Errorf(sdk.CodeInvalid, "%v", err)
		}
	}
	return q, nil
}

func (s *Server) ping(w http.ResponseWriter, r *http.Request) {
	n, err := number(r, "count", MaxPings)
	if err == nil && r.FormValue("node") == "" {
		err = sdk.Errorf(sdk.CodeInvalid, "parameter node: want the id, name or address of a node")
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	req := PingRequest{Node: r.FormValue("node"), Count: max(int(n), 1)}
	s.serveStream(w, r, func(ctx context.Context, yield func(uint64, any) error) error {
		return s.kernel.Ping(ctx, req, func(p Pulse) error { return yield(0, p) })
	})
}

// Peers implements [Prober].
func (c *Client) Peers(ctx context.Context) (*Peers, error) { return fetch[*Peers](ctx, c, "peers") }

// Ping implements [Prober].
func (c *Client) Ping(ctx context.Context, r PingRequest, yield func(Pulse) error) error {
	q := url.Values{"node": {r.Node}, "count": {strconv.Itoa(r.Count)}}
	return follow(ctx, c, streamRequest{method: http.MethodGet, path: "ping", query: q}, yield)
}

// Explain implements [Prober].
func (c *Client) Explain(ctx context.Context, q ExplainQuery) (*Explanation, error) {
	v := url.Values{"cell": {string(q.Cell)}, "method": {q.Method}, "from": {string(q.From)}}
	b, err := c.do(ctx, http.MethodGet, "explain", v, nil)
	if err != nil {
		return nil, err
	}
	e := new(Explanation)
	return e, c.unmarshal(b, e)
}
