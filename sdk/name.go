package sdk

import (
	"encoding/base32"
	"fmt"
	"strings"
)

// A CellName names a cell of a mesh. It is 1 to 63 characters of lower-case
// letters, digits and inner hyphens, so it is safe in paths, logs and frames.
type CellName string

// MaxCellName is the length of the longest cell name, in bytes.
const MaxCellName = 63

// Names that belong to the kernel and can not be given to a cell.
const (
	GolgiName CellName = "golgi" // the kernel's own cell
	CLIName   CellName = "cli"   // the command line as a caller
)

// ParseCellName checks s against the grammar of names. Reserved names parse:
// who may use them is decided where they are used.
func ParseCellName(s string) (CellName, error) {
	if len(s) == 0 || len(s) > MaxCellName {
		return "", fmt.Errorf("cell name %.70q: want 1 to %d characters, got %d", s, MaxCellName, len(s))
	}
	for i := range len(s) {
		c := s[i]
		inner := i > 0 && i < len(s)-1
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' && inner {
			continue
		}
		return "", fmt.Errorf("cell name %q: want lower-case letters, digits and inner hyphens", s)
	}
	return CellName(s), nil
}

// Reserved reports whether n belongs to the kernel.
func (n CellName) Reserved() bool { return n == GolgiName || n == CLIName }

// A NodeID is a node's Ed25519 public key in unpadded lower-case base32, 52
// characters. The empty NodeID means "unknown".
type NodeID string

// nodeEncoding is RFC 4648 base32 in lower case without padding.
var nodeEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// FormatNodeID returns the id of the node that holds key, a 32-byte Ed25519
// public key. It panics if key has another length.
func FormatNodeID(key []byte) NodeID {
	if len(key) != 32 {
		panic(fmt.Sprintf("sdk: node key of %d bytes", len(key)))
	}
	return NodeID(nodeEncoding.EncodeToString(key))
}

// ParseNodeID checks s and returns it as an id.
func ParseNodeID(s string) (NodeID, error) {
	key, err := nodeEncoding.DecodeString(s)
	if err != nil || len(key) != 32 || nodeEncoding.EncodeToString(key) != s {
		return "", fmt.Errorf("node id %.60q: want 52 characters of lower-case base32", s)
	}
	return NodeID(s), nil
}

// Key returns the 32-byte public key behind id, or nil if id is malformed.
func (id NodeID) Key() []byte {
	key, err := nodeEncoding.DecodeString(string(id))
	if err != nil || len(key) != 32 {
		return nil
	}
	return key
}

// Short returns the first eight characters of id, for people.
func (id NodeID) Short() string {
	return string(id[:min(len(id), 8)])
}

// MaxHint is the length of the longest transport hint, in bytes.
const MaxHint = 64

// An Addr is where a transport listens or dials: a scheme, which is the name
// of the transport, and a host, which only that transport understands.
type Addr struct {
	Scheme string // "uds", "quic"
	Host   string // "/run/user/1000/cellkernel/a1/k.sock", "10.0.0.2:9000"
	// Hint travels in the signed announcement and returns unchanged to the
	// transport that dials: at most [MaxHint] bytes, nil for none.
	Hint []byte
}

// ParseAddr parses "scheme://host". It does not judge the host.
func ParseAddr(s string) (Addr, error) {
	scheme, host, ok := strings.Cut(s, "://")
	if !ok || scheme == "" || host == "" || len(s) > 512 {
		return Addr{}, fmt.Errorf("address %.80q: want scheme://host", s)
	}
	if _, err := ParseCellName(scheme); err != nil {
		return Addr{}, fmt.Errorf("address %.80q: scheme %q: want lower-case letters, digits and inner hyphens", s, scheme)
	}
	return Addr{Scheme: scheme, Host: host}, nil
}

// String returns "scheme://host", without the hint. The zero Addr is "".
func (a Addr) String() string {
	if a.Scheme == "" {
		return ""
	}
	return a.Scheme + "://" + a.Host
}

// Validate reports what is wrong with an address that came from outside.
func (a Addr) Validate() error {
	if len(a.Hint) > MaxHint {
		return fmt.Errorf("address %q: hint of %d bytes: at most %d", a, len(a.Hint), MaxHint)
	}
	_, err := ParseAddr(a.Scheme + "://" + a.Host)
	return err
}

// A Kind is one of the four kinds of plugin.
type Kind string

// The four kinds.
const (
	KindTransport Kind = "transport"
	KindDiscovery Kind = "discovery"
	KindLedger    Kind = "ledger"
	KindBilling   Kind = "billing"
)

// Kinds lists the four kinds in the order in which a kernel starts them.
func Kinds() []Kind { return []Kind{KindBilling, KindLedger, KindTransport, KindDiscovery} }

// ParseKind checks s and returns it as a kind.
func ParseKind(s string) (Kind, error) {
	switch k := Kind(s); k {
	case KindTransport, KindDiscovery, KindLedger, KindBilling:
		return k, nil
	}
	return "", fmt.Errorf("plugin kind %.40q: want transport, discovery, ledger or billing", s)
}
