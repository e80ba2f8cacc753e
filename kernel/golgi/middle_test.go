package golgi_test

import (
	"bytes"
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/plugintest"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// A middle is a machine between two others that ends QUIC on both sides, with
// a certificate of its own, and passes on and keeps all that links carry.
type middle struct {
	mu       sync.Mutex // guards all below
	up, down bytes.Buffer
}

func (m *middle) pass(to, from net.Conn, kept *bytes.Buffer) {
	defer to.Close()
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		m.mu.Lock()
		kept.Write(buf[:n])
		m.mu.Unlock()
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// took returns what passed since the last time.
func (m *middle) took() (up, down []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	up, down = bytes.Clone(m.up.Bytes()), bytes.Clone(m.down.Bytes())
	m.up.Reset()
	m.down.Reset()
	return up, down
}

// relay passes what comes in at ln on to an address, until ln is closed.
func (m *middle) relay(t *testing.T, ln net.Listener, dial func() (net.Conn, error)) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := dial()
			if err != nil {
				t.Errorf("the one in the middle reaches nobody: %v", err)
				near.Close()
				continue
			}
			wg.Go(func() { m.pass(far, near, &m.up) })
			wg.Go(func() { m.pass(near, far, &m.down) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
}

// quicProgram builds the plugin, which this package may not import.
func quicProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "transport-quic")
	if out, err := exec.Command("go", "build", "-o", path, "../../plugins/transport-quic").CombinedOutput(); err != nil {
		t.Fatalf("build transport-quic: %v\n%s", err, out)
	}
	return path
}

func quicOf(t *testing.T, program string) sdk.Transport {
	t.Helper()
	c, err := plugin.Start(context.Background(), plugin.Command{Name: "quic", Path: program}, plugin.Options{Certify: plugintest.Certify})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Kill() })
	tr, err := c.Transport()
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func quicListen(t *testing.T, tr sdk.Transport) (net.Listener, sdk.Addr) {
	t.Helper()
	ln, err := tr.Listen(t.Context(), sdk.Addr{Scheme: "quic", Host: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	return ln, sdk.Addr{Scheme: "quic", Host: ln.Addr().String(), Hint: ln.(sdk.Hinter).Hint()}
}

// P6: who ends QUIC on both sides is refused, with and without a prior
// announcement, and sees no certificate of a cell.
func TestWhoEndsQUICInTheMiddleIsRefused(t *testing.T) {
	mesh, program := identity.NewMesh(), quicProgram(t)
	own := quicOf(t, program)
	b := newFarRig(t, mesh)
	b.offer("store", golgi.Routes{})
	ln, at := quicListen(t, quicOf(t, program))
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := b.g.ServeLinks(ln, golgi.Door{Name: doorName}); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { ln.Close(); serving.Wait() })
	m, tr := new(middle), quicOf(t, program)
	between, fake := quicListen(t, tr)
	m.relay(t, between, func() (net.Conn, error) { return tr.Dial(context.Background(), at) })
	a := newFarRig(t, mesh, func(o *golgi.Options) {
		plain := o.Dial
		o.Scheme = "quic"
		o.Dial = func(ctx context.Context, addr sdk.Addr) (net.Conn, error) {
			if addr.Scheme == "quic" {
				return own.Dial(ctx, addr)
			}
			return plain(ctx, addr)
		}
	})
	call := func(host string) (string, error) {
		shop := a.calls("store", golgi.Axon{To: []golgi.Target{{Cell: "store", Host: host}}})
		defer shop.Close()
		return ask(t, shop, "store", long)
	}
	if got, err := call(at.Host); err != nil {
		t.Fatalf("with nobody in the middle: %q, %v", got, err)
	}
	_, err := call(fake.Host) // nothing was announced: any certificate will do
	if sdk.CodeOf(err) != sdk.CodeDenied || !strings.HasSuffix(err.Error(), "refused") {
		t.Errorf("without a hint: got %v", err)
	}
	up, down := m.took()
	tries := 0
	for rest := up; len(rest) > 0; tries++ { // of the one link, over and over
		n, err := wire.LinkHeaderLen([2]byte(append(bytes.Clone(rest), 0)))
		if err != nil || len(rest) < 2+n {
			t.Fatalf("without a hint: %d bytes went to b: want link headers and nothing else", len(up))
		}
		rest = rest[2+n:]
	}
	refusal := wire.AppendRefusal(nil, uint8(sdk.CodeDenied), "refused")
	if tries == 0 || !bytes.Equal(down, bytes.Repeat(refusal, tries)) {
		t.Errorf("without a hint: %q came back for %d headers", down, tries)
	}
	for _, key := range [][]byte{a.self.Node().Key(), b.self.Node().Key()} {
		if bytes.Contains(up, key) || bytes.Contains(down, key) {
			t.Error("without a hint: the key of a node was seen")
		}
	}
	_, err = own.Dial(t.Context(), sdk.Addr{Scheme: "quic", Host: fake.Host, Hint: at.Hint})
	if sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), "not the announced one") {
		t.Errorf("with the hint of b: got %v", err)
	}
	if up, down := m.took(); len(up)+len(down) > 0 {
		t.Errorf("with the hint of b: %d bytes passed", len(up)+len(down))
	}
}
