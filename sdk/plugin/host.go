package plugin

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"log/slog"
	"os"
)

// A Host is what the kernel offers a plugin. It lives as long as the process;
// its methods may be called by any number of goroutines.
type Host interface {
	// Log returns the logger of the plugin. What it writes appears in
	// `cellkernel logs plugin`; it slows the plugin down rather than lose lines.
	Log() *slog.Logger
	// State returns the plugin's own directory, which is there again after a
	// restart. It can not be left through symbolic links or "..".
	State() *os.Root
	// Subkey derives a key from a secret that this kernel gives this plugin
	// and no other. The same label gives the same key after a restart.
	Subkey(label string) [32]byte
	// Certify asks the kernel for a certificate in DER over a public key, a
	// DER SubjectPublicKeyInfo of at most 1 KiB. It waits until ctx is done,
	// at most 10 s. Kinds other than transports are refused.
	Certify(ctx context.Context, spki []byte) ([]byte, error)
}

// host is the Host of a served plugin: all of it is known since the hello but
// certificates, which are host calls.
type host struct {
	log   *slog.Logger
	state *os.Root
	hello hello
	link  *session
}

func (h *host) Log() *slog.Logger { return h.log }
func (h *host) State() *os.Root   { return h.state }

func (h *host) Subkey(label string) [32]byte {
	key, err := hkdf.Key(sha256.New, h.hello.Secret, nil, "cellkernel plugin "+label, 32)
	if err != nil {
		panic(err) // 32 bytes are always available from SHA-256
	}
	return [32]byte(key)
}

func (h *host) Certify(ctx context.Context, spki []byte) ([]byte, error) {
	return h.link.call(ctx, methodCertify, spki)
}
