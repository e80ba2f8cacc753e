package channel

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/cellkernel/cellkernel/sdk"
)

// A Message is what kernel and cell say to each other: JSON, one object per
// message, at most [MaxMessage] bytes. Type decides which other fields count.
type Message struct {
	Type string `json:"type"`
	// ID joins an answer with its question. For links it is the link's id.
	ID        uint64       `json:"id,omitempty"`
	Name      sdk.CellName `json:"name,omitempty"`
	Endpoint  string       `json:"endpoint,omitempty"`
	Hello     *Hello       `json:"hello,omitempty"`
	Welcome   *Welcome     `json:"welcome,omitempty"`
	Endpoints *Endpoints   `json:"endpoints,omitempty"`
	Link      *Link        `json:"link,omitempty"`
	Failure   *Failure     `json:"failure,omitempty"`
	Stats     *Stats       `json:"stats,omitempty"`
	Proof     *Proof       `json:"proof,omitempty"`
	Lease     *Lease       `json:"lease,omitempty"`
}

// Types of messages from a cell to its kernel.
const (
	TypeHello   = "hello"   // Hello: who I am; the first message
	TypeReady   = "ready"   // links may come now
	TypeNeed    = "need"    // Name: send me its endpoints, now and when they change
	TypeDial    = "dial"    // ID, Name, Endpoint: open a link; answered by link or refused
	TypeClosed  = "closed"  // ID: an incoming link, or one that is not local, ended
	TypeAdmit   = "admit"   // ID, Proof: may the link with the other side go on? answered by admitted
	TypeStats   = "stats"   // Stats: counters, absolute
	TypeDrained = "drained" // no call is running any more
	// TypeDrain, below, is also what a cell says that drains by itself: no
	// more links, please.
	TypePong = "pong" // ID: answer to ping, given without user code
)

// Types of messages from a kernel to a cell.
const (
	TypeWelcome   = "welcome"   // Welcome: the answer to hello
	TypeEndpoints = "endpoints" // Endpoints: all that Name can be reached at
	TypeLink      = "link"      // Link and one descriptor; with an ID the cell dialled: the answer
	TypeRefused   = "refused"   // ID, Failure: the answer to dial, or to hello
	TypeDrain     = "drain"     // finish what runs, then say drained
	TypePing      = "ping"      // ID
	TypeAdmitted  = "admitted"  // ID, Link or Failure: the answer to admit
	TypeCut       = "cut"       // ID, Failure: end this link now
	TypeLease     = "lease"     // Lease: how much more one node may use
	TypeRelease   = "release"   // ID: end this link when its calls have ended; new ones take another
)

// Features a cell announces in its hello.
const (
	FeatureNoise = "noise" // it can encrypt: it may get links that are not local
	FeatureCalls = "calls" // it says [OutStats] of its outgoing links
)

// A Hello introduces a cell.
type Hello struct {
	Version int `json:"version"` // of these messages: [Version]
	// Token proves that the kernel launched this process, where the channel
	// was not inherited. One use.
	Token string `json:"token,omitempty"`
	// Cell is the name a process started by hand asks for.
	Cell     sdk.CellName `json:"cell,omitempty"`
	PID      int          `json:"pid"`
	Features []string     `json:"features,omitempty"`
	// Key is the public half of the X25519 key that this process made for
	// itself: what the certificates it gets with links are about.
	Key []byte `json:"key,omitempty"`
}

// Version is the version of the messages.
const Version = 1

// A Welcome tells a cell who it is and how to behave.
type Welcome struct {
	Node        sdk.NodeID            `json:"node,omitempty"`
	Cell        sdk.CellName          `json:"cell"`
	Replica     int                   `json:"replica"`
	Incarnation uint64                `json:"incarnation"`
	Links       int                   `json:"links"`       // links per name, unless its axon says otherwise
	Concurrency int                   `json:"concurrency"` // calls handled at once; 0 is no limit
	DrainMS     int64                 `json:"drain_ms"`    // how long a drain may take
	MaxMessage  int                   `json:"max_message"` // bytes of the longest message to accept; 0 is the sdk's
	Axons       map[sdk.CellName]Axon `json:"axons,omitempty"`
	// Meter asks for what [Stats] need where somebody is charged by them.
	Meter bool `json:"meter,omitempty"`
	// NodeCalls is how many handlers may run at once for one node that is charged
	// for them; 0 is the sdk's.
	NodeCalls int `json:"node_calls,omitempty"`
}

// An Axon is how a caller treats one name it depends on.
type Axon struct {
	TimeoutMS int64  `json:"timeout_ms,omitempty"` // default deadline; 0 is the sdk's
	Retries   *int   `json:"retries,omitempty"`    // further attempts; nil is the sdk's
	Spread    string `json:"spread,omitempty"`     // "score", "local" or "even"; empty is score
	Links     int    `json:"links,omitempty"`      // links kept; 0 is Welcome.Links
}

// Endpoints is the full set for a name; it replaces the last.
type Endpoints struct {
	Local  []string         `json:"local,omitempty"` // "worker#2@7": cell, replica, incarnation
	Remote []RemoteEndpoint `json:"remote,omitempty"`
}

// A RemoteEndpoint is a cell of another node.
type RemoteEndpoint struct {
	ID       string     `json:"id"` // unique in the set
	Node     sdk.NodeID `json:"node"`
	Replicas int        `json:"replicas"`
}

// A Link describes the descriptor that comes with it.
type Link struct {
	ID       uint64       `json:"id"` // of this kernel, never used twice
	Outgoing bool         `json:"outgoing"`
	Local    bool         `json:"local"` // both ends were opened by this kernel
	Node     sdk.NodeID   `json:"node,omitempty"`
	Cell     sdk.CellName `json:"cell"`               // who is on the other side
	Endpoint string       `json:"endpoint,omitempty"` // of an outgoing link: what was dialled
	Secure   *Secure      `json:"secure,omitempty"`   // of a link that is not local
}

// Secure is what a cell needs to secure a link that is not local: the two
// kernels have agreed on it, see package synapse.
type Secure struct {
	Mesh        []byte `json:"mesh"`        // 32 bytes
	Header      []byte `json:"header"`      // the link header as it was sent
	Binding     []byte `json:"binding"`     // 32 bytes
	Certificate []byte `json:"certificate"` // this cell's, for [Hello].Key
}

// A Proof is what a handshake has shown of the other side of a link.
type Proof struct {
	Certificate []byte `json:"certificate"`
	Key         []byte `json:"key"`            // 32 bytes
	Hash        []byte `json:"hash,omitempty"` // 32 bytes; none while the handshake goes on
}

// A Failure is an [sdk.Error] in a message.
type Failure struct {
	Code string `json:"code"`
	Text string `json:"text"`
}

// Err returns f as an error that was certainly not executed.
func (f *Failure) Err() *sdk.Error {
	code, _ := sdk.ParseCode(f.Code)
	return &sdk.Error{Code: code, Executed: sdk.ExecutedNo, Text: f.Text}
}

// FailureOf makes a Failure of err, which is not nil.
func FailureOf(err error) *Failure {
	e := sdk.AsError(err)
	return &Failure{Code: e.Code.String(), Text: e.Text}
}

// Stats are counters since the cell attached, one entry per link. Links whose
// counters have not changed may be left out.
type Stats struct {
	Links []LinkStats `json:"links"`
	// CPUNS and Split are of cells that are asked to meter: the CPU time of the
	// process by its own account, in ns, and how the weights of methods came
	// about: "time" or "samples".
	CPUNS int64  `json:"cpu_ns,omitempty"`
	Split string `json:"split,omitempty"`
	// Out are outgoing links that are not local.
	Out []OutStats `json:"out,omitempty"`
}

// OutStats are what a caller says of one outgoing link that is not local: by
// them its kernel knows what the other node can charge for. They are absolute.
type OutStats struct {
	ID      uint64 `json:"id"`
	Calls   uint64 `json:"calls"`             // begun
	BusyNS  int64  `json:"busy_ns"`           // during which at least one was in flight
	Running bool   `json:"running,omitempty"` // one is now
}

// LinkStats are the absolute counters of one link.
type LinkStats struct {
	ID        uint64 `json:"id"`
	Calls     uint64 `json:"calls"`
	Errors    uint64 `json:"errors,omitempty"`
	HandlerUS uint64 `json:"handler_us,omitempty"` // time in handlers, without what they waited for streams and calls, µs
	BytesIn   uint64 `json:"bytes_in"`
	BytesOut  uint64 `json:"bytes_out"`
	// Methods are what cells that are asked to meter say of each method.
	Methods []MethodStats `json:"methods,omitempty"`
}

// MaxMethods bounds the methods that are counted apart for one link; what is
// beyond is counted together as [OtherMethods].
const MaxMethods = 16

// OtherMethods is the name of what is not counted apart.
const OtherMethods = "…"

// MethodStats are the absolute counters of one method on one link.
type MethodStats struct {
	Method   string `json:"method"` // "Service.Method"
	Calls    uint64 `json:"calls"`
	WeightNS int64  `json:"weight_ns"` // CPU time that its handlers took, as the cell estimates it
}

// A Lease says how much one node may use of this cell. What it has used is the
// sum of the weights of all its links since the cell attached. A node without
// any lease may use what it wants.
type Lease struct {
	Node    sdk.NodeID `json:"node"`
	LimitNS int64      `json:"limit_ns"`       // may have been used, in all
	ForMS   int64      `json:"for_ms"`         // new calls are taken so long
	Why     string     `json:"why,omitempty"`  // there is no more, for people
	More    bool       `json:"more,omitempty"` // there may be soon: calls may wait for it
	Free    bool       `json:"free,omitempty"` // there is no limit any more
}

// SendMessage encodes m and sends it.
func (c *Conn) SendMessage(m Message, files ...*os.File) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode message %q: %w", m.Type, err)
	}
	return c.Send(b, files...)
}

// RecvMessage receives one message; buf is scratch space of [MaxMessage]
// bytes. Files that come with a malformed message are closed.
func (c *Conn) RecvMessage(buf []byte) (Message, []*os.File, error) {
	var m Message
	n, files, err := c.Recv(buf)
	if err != nil {
		return m, nil, err
	}
	if err := json.Unmarshal(buf[:n], &m); err != nil {
		closeAll(files)
		return m, nil, fmt.Errorf("receive message: %w", err)
	}
	return m, files, nil
}
