package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"github.com/cellkernel/cellkernel/sdk"
)

// maxIdentity is the length of the longest identity file, in bytes.
const maxIdentity = 16 << 10

// An Identity is the Ed25519 key of a node. It is safe for concurrent use.
// However it is formatted, it shows its public half only.
type Identity struct {
	node sdk.NodeID
	// key is a function because nothing that formats by reflection can look
	// behind one.
	key func() ed25519.PrivateKey
}

func newIdentity() (*Identity, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make identity: %w", err)
	}
	return identityOf(key), nil
}

func identityOf(key ed25519.PrivateKey) *Identity {
	return &Identity{
		node: sdk.FormatNodeID(key.Public().(ed25519.PublicKey)),
		key:  func() ed25519.PrivateKey { return key },
	}
}

// marshal returns the identity as an OpenSSH private key file.
func (id *Identity) marshal(comment string) ([]byte, error) {
	block, err := ssh.MarshalPrivateKey(id.key(), "cellkernel "+comment)
	if err != nil {
		return nil, fmt.Errorf("encode identity: %w", err)
	}
	defer clear(block.Bytes)
	return pem.EncodeToMemory(block), nil
}

// loadIdentity reads the identity in d. Errors say what is wrong with the
// file and nothing of what is in it.
func loadIdentity(d dir) (*Identity, error) {
	b, err := d.read(identityFile, maxIdentity)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	path := filepath.Join(d.path, identityFile)
	raw, err := ssh.ParseRawPrivateKey(b)
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		return nil, denied(path, "it has a passphrase, for which nobody could ask a kernel")
	}
	if err != nil {
		return nil, denied(path, "it is not an OpenSSH private key")
	}
	key, ok := raw.(*ed25519.PrivateKey)
	if !ok {
		return nil, denied(path, "it is not an Ed25519 key")
	}
	if derived := ed25519.NewKeyFromSeed(key.Seed()); !bytes.Equal(derived, *key) {
		return nil, denied(path, "its two halves do not belong together")
	}
	return identityOf(*key), nil
}

// Node returns the node's id, which is its public key.
func (id *Identity) Node() sdk.NodeID { return id.node }

// AuthorizedKey returns the public key as OpenSSH writes it, without comment:
// "ssh-ed25519 AAAA…".
func (id *Identity) AuthorizedKey() string {
	return string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(id.sshKey())))
}

// Fingerprint returns what ssh-keygen -l shows: "SHA256:…".
func (id *Identity) Fingerprint() string { return ssh.FingerprintSHA256(id.sshKey()) }

func (id *Identity) sshKey() ssh.PublicKey {
	key, err := ssh.NewPublicKey(ed25519.PublicKey(id.node.Key()))
	if err != nil {
		panic(err) // only for keys of another kind
	}
	return key
}

// Subkey derives a secret from the identity, the same after a restart and
// another one for every label: what a plugin's secrets come from. Nothing
// about the identity, or about another label, follows from it.
func (id *Identity) Subkey(label string) [32]byte {
	return derive(id.key().Seed(), "cellkernel/subkey/v1\x00"+label)
}

// sign signs parts after domain, which ends with a zero byte and is used for
// nothing else. Parts have fixed lengths, but for the last.
func (id *Identity) sign(domain string, parts ...[]byte) []byte {
	return ed25519.Sign(id.key(), statement(domain, parts))
}

func verify(node []byte, sig []byte, domain string, parts ...[]byte) bool {
	return len(node) == ed25519.PublicKeySize && ed25519.Verify(node, statement(domain, parts), sig)
}

func statement(domain string, parts [][]byte) []byte {
	return append([]byte(domain), bytes.Join(parts, nil)...)
}

// domainReceipt begins what is signed as a receipt: kernel/books has it, too.
const domainReceipt = "cellkernel/receipt/v1\x00"

// SignReceipt signs a receipt of kernel/books.
func (id *Identity) SignReceipt(receipt []byte) [64]byte {
	return [64]byte(id.sign(domainReceipt, receipt))
}

// Wipe overwrites the key. id, which nobody may be using, can not sign any more.
func (id *Identity) Wipe() { clear(id.key()) }

// String returns the node id.
func (id Identity) String() string { return string(id.node) }

// Format implements [fmt.Formatter]: every verb writes the node id.
func (id Identity) Format(f fmt.State, _ rune) { write(f, id.String()) }

// LogValue implements [slog.LogValuer].
func (id Identity) LogValue() slog.Value { return slog.StringValue(id.String()) }
