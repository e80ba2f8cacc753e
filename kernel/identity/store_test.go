package identity_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
)

func identityPath(s *identity.Store) string { return filepath.Join(s.Path(), "desk", "identity") }

func TestIdentityStays(t *testing.T) {
	m := newMember(t)
	again, err := m.store.Identity("desk")
	if err != nil || again.Node() != m.id.Node() {
		t.Errorf("got %v, %v, want %v", again, err, m.id)
	}
	other, err := m.store.Identity("farm")
	if err != nil || other.Node() == m.id.Node() {
		t.Errorf("another node: got %v, %v", other, err)
	}
	if m.id.Subkey("a") == m.id.Subkey("b") || m.id.Subkey("a") != again.Subkey("a") || m.id.Subkey("a") == other.Subkey("a") {
		t.Error("subkeys do not follow identity and label")
	}
	for path, mode := range map[string]fs.FileMode{
		m.store.Path(): fs.ModeDir | 0o700, filepath.Dir(identityPath(m.store)): fs.ModeDir | 0o700,
		identityPath(m.store): 0o600, filepath.Join(m.store.Path(), "mesh.key"): 0o600,
	} {
		if info := must(os.Lstat(path)); info.Mode() != mode {
			t.Errorf("%s: mode %v, want %v", path, info.Mode(), mode)
		}
	}
	if left := must(filepath.Glob(filepath.Join(m.store.Path(), "*", "*.new"))); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// The mode does not depend on the umask, as far as a umask can be trusted.
func TestModeWithOpenUmask(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	m := newMember(t)
	if info := must(os.Stat(identityPath(m.store))); info.Mode() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

// The tools people have read the file.
func TestSSHKeygenReadsIdentity(t *testing.T) {
	tool, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("ssh-keygen is not installed")
	}
	m := newMember(t)
	public, err := exec.Command(tool, "-y", "-f", identityPath(m.store)).Output()
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(public))
	if got := strings.Join(fields[:2], " "); got != m.id.AuthorizedKey() {
		t.Errorf("ssh-keygen -y says %q, want %q", got, m.id.AuthorizedKey())
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(public)
	if err != nil {
		t.Fatal(err)
	}
	raw := key.(ssh.CryptoPublicKey).CryptoPublicKey().(ed25519.PublicKey)
	if got := sdk.FormatNodeID(raw); got != m.id.Node() {
		t.Errorf("its key is node %s, want %s", got, m.id.Node())
	}
	out, err := exec.Command(tool, "-l", "-f", identityPath(m.store)).Output()
	if err != nil || !strings.Contains(string(out), m.id.Fingerprint()) || !strings.Contains(string(out), "cellkernel desk") {
		t.Errorf("ssh-keygen -l says %q, %v; want %s", out, err, m.id.Fingerprint())
	}
}

// A key that ssh-keygen made is as good; one with a passphrase is not.
func TestIdentityFromSSHKeygen(t *testing.T) {
	tool, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("ssh-keygen is not installed")
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-t", "ed25519", "-N", ""}, ""},
		{[]string{"-t", "ed25519", "-N", "hunter2"}, "it has a passphrase"},
		{[]string{"-t", "ecdsa", "-N", ""}, "it is not an Ed25519 key"},
	} {
		m := newMember(t)
		path := identityPath(m.store)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(tool, append(c.args, "-q", "-f", path)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		_, err := m.store.Identity("desk")
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v: got %v, want %q", c.args, err, c.want)
		}
	}
}

// What others could have read, or put there, is not used, and not repaired.
func TestWhatIsNotPrivateIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(path string) error
		want  string
	}{
		"readable by group": {func(p string) error { return os.Chmod(p, 0o640) }, "mode 0640 lets others at it"},
		"readable by all":   {func(p string) error { return os.Chmod(p, 0o604) }, "mode 0604 lets others at it"},
		"second name":       {func(p string) error { return os.Link(p, p+"2") }, "it has 2 names"},
		"symbolic link": {func(p string) error {
			return errors.Join(os.Rename(p, p+"2"), os.Symlink(p+"2", p))
		}, "it is not a regular file"},
		"pipe": {func(p string) error {
			return errors.Join(os.Remove(p), syscall.Mkfifo(p, 0o600))
		}, "it is not a regular file"},
		"directory": {func(p string) error {
			return errors.Join(os.Remove(p), os.Mkdir(p, 0o700))
		}, "it is not a regular file"},
		"huge":                       {func(p string) error { return os.Truncate(p, 1<<40) }, "more than"},
		"empty":                      {func(p string) error { return os.Truncate(p, 0) }, ""},
		"torn":                       {func(p string) error { return os.Truncate(p, 20) }, ""},
		"directory open to group":    {func(p string) error { return os.Chmod(filepath.Dir(p), 0o750) }, "mode 0750 lets others at it"},
		"directory writable for all": {func(p string) error { return os.Chmod(filepath.Dir(p), 0o702) }, "mode 0702 lets others at it"},
		"directory is a link": {func(p string) error {
			d := filepath.Dir(p)
			return errors.Join(os.Rename(d, d+"2"), os.Symlink(d+"2", d))
		}, "it is a symbolic link"},
		"owner": {func(p string) error {
			if os.Geteuid() != 0 {
				return errSkip
			}
			return os.Chown(p, 4242, -1)
		}, "it belongs to user 4242"},
	} {
		for _, file := range []string{"desk/identity", "mesh.key"} {
			m := newMember(t)
			path := filepath.Join(m.store.Path(), file)
			err := c.spoil(path)
			if errors.Is(err, errSkip) {
				continue // only root can give a file away
			}
			if err != nil {
				t.Fatal(err)
			}
			before, _ := os.Lstat(path)
			err = load(m.store, file)
			if err == nil || !strings.Contains(err.Error(), c.want) || sdk.CodeOf(err) != sdk.CodeDenied {
				t.Errorf("%s of %s: got %v, want %q", name, file, err, c.want)
			}
			if after, _ := os.Lstat(path); before.Mode() != after.Mode() || before.Size() != after.Size() {
				t.Errorf("%s of %s: it was changed", name, file)
			}
		}
	}
}

var errSkip = errors.New("skip")

// load loads what is in a file, as a kernel that starts does.
func load(s *identity.Store, file string) error {
	if file != "mesh.key" {
		_, err := s.Identity("desk")
		return err
	}
	fresh, err := identity.OpenStore(s.Path())
	if err != nil {
		return err
	}
	defer fresh.Close()
	_, err = fresh.Mesh()
	return err
}

func TestMeshIsMadeOnce(t *testing.T) {
	m := newMember(t)
	if _, err := m.store.CreateMesh(); !errors.Is(err, fs.ErrExist) {
		t.Errorf("again: got %v", err)
	}
	if got := must(m.store.Mesh()); got.ID() != m.mesh.ID() || !bytes.Equal(got.LinkKey(), m.mesh.LinkKey()) {
		t.Error("loaded another mesh than was made")
	}
	if n := len(m.secret()); n != 32 {
		t.Errorf("secret of %d bytes", n)
	}
	other := newMember(t)
	if other.mesh.ID() == m.mesh.ID() {
		t.Error("two meshes are one")
	}
	empty := must(identity.OpenStore(filepath.Join(t.TempDir(), "none")))
	defer empty.Close()
	if _, err := empty.Mesh(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no mesh: got %v", err)
	}
	if _, err := empty.Rotate(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("rotate no mesh: got %v", err)
	}
}

func TestRotate(t *testing.T) {
	m := newMember(t)
	before := m.secret()
	cert := must(m.mesh.CertifyCell(m.id, cellName, [32]byte{1}, now))
	fresh, err := m.store.Rotate()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(before, m.secret()) || fresh.ID() == m.mesh.ID() || must(m.store.Mesh()).ID() != fresh.ID() {
		t.Error("the secret is not a new one")
	}
	if _, err := fresh.VerifyCell(cert, now); err != identity.ErrCertificate {
		t.Errorf("certificate of before: got %v", err)
	}
}

// A process that was killed while it wrote leaves nothing that matters.
func TestLeftoverIsNoKey(t *testing.T) {
	s := must(identity.OpenStore(filepath.Join(t.TempDir(), "home")))
	defer s.Close()
	for _, name := range []string{"mesh.key.new", "desk/identity.new"} {
		path := filepath.Join(s.Path(), name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("half"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Identity("desk"); err != nil {
		t.Error(err)
	}
	if _, err := s.CreateMesh(); err != nil {
		t.Error(err)
	}
	if info := must(os.Stat(identityPath(s))); info.Mode() != 0o600 {
		t.Errorf("mode %v of the leftover", info.Mode())
	}
}

// Many at once: all that succeed have the same key.
func TestConcurrentCreation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "home")
	var wg sync.WaitGroup
	nodes := make(chan sdk.NodeID, 8)
	for range cap(nodes) {
		wg.Go(func() {
			s, err := identity.OpenStore(path)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			id, err := s.Identity("desk")
			switch {
			case err == nil:
				nodes <- id.Node()
			case sdk.CodeOf(err) != sdk.CodeUnavailable:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(nodes)
	first := <-nodes
	for n := range nodes {
		if n != first {
			t.Errorf("got %s and %s", n, first)
		}
	}
	if first == "" {
		t.Error("nobody succeeded")
	}
}

func TestHome(t *testing.T) {
	t.Setenv("HOME", "/home/somebody")
	t.Setenv("CELLKERNEL_HOME", "")
	if got := must(identity.Home()); got != "/home/somebody/.cell" || identity.MeshDir(got, "home") != "/home/somebody/.cell/home" {
		t.Errorf("got %q", got)
	}
	t.Setenv("CELLKERNEL_HOME", "/srv/cells/")
	if got := must(identity.Home()); got != "/srv/cells" {
		t.Errorf("got %q", got)
	}
	t.Setenv("CELLKERNEL_HOME", "cells")
	if _, err := identity.Home(); err == nil {
		t.Error("a relative path was taken")
	}
	if got := identity.PrivateDir("/src/x"); got != "/src/x/.cell/mesh" {
		t.Errorf("got %q", got)
	}
}

func TestNodeNamesStayInside(t *testing.T) {
	m := newMember(t)
	for _, name := range []sdk.CellName{"", "..", "../x", "a/b", "mesh.key", "A", "."} {
		if _, err := m.store.Identity(name); err == nil {
			t.Errorf("node %q was taken", name)
		}
	}
	dir, err := m.store.NodeDir("desk")
	if err != nil || dir != filepath.Join(m.store.Path(), "desk") {
		t.Errorf("got %q, %v", dir, err)
	}
}

func TestDenyList(t *testing.T) {
	m := newMember(t)
	a, b := newMember(t).id.Node(), newMember(t).id.Node()
	if d := must(m.store.Denied()); d.Has(a) || len(d.List()) != 0 {
		t.Error("a list from nowhere")
	}
	must(m.store.Deny(a))
	must(m.store.Deny(a))
	d := must(m.store.Deny(b))
	if !d.Has(a) || !d.Has(b) || len(must(m.store.Denied()).List()) != 2 {
		t.Errorf("got %v", d.List())
	}
	if d = must(m.store.Undeny(a)); d.Has(a) || !d.Has(b) || must(m.store.Denied()).Has(a) {
		t.Errorf("got %v", d.List())
	}
	if _, err := m.store.Deny("k7q2"); err == nil {
		t.Error("a short id was taken")
	}
	path := filepath.Join(m.store.Path(), "deny")
	if err := os.WriteFile(path, fmt.Appendf(nil, "# left in anger\n\n%s # the old laptop\n", a), 0o600); err != nil {
		t.Fatal(err)
	}
	if d := must(m.store.Denied()); !d.Has(a) || d.Has(b) {
		t.Errorf("with comments: got %v", d.List())
	}
	if err := os.WriteFile(path, fmt.Appendf(nil, "%s\nlaptop\n", a), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.store.Denied(); err == nil || !strings.Contains(err.Error(), "deny:2: ") {
		t.Errorf("got %v, want the line", err)
	}
}

// However a secret is written down by accident, it does not show.
func TestSecretsAreNotFormatted(t *testing.T) {
	m := newMember(t)
	key := must(ssh.ParseRawPrivateKey(must(os.ReadFile(identityPath(m.store))))).(*ed25519.PrivateKey)
	inviter := identity.NewInviter(m.id, m.mesh, "home", func(sdk.NodeID) bool { return false })
	invitation := must(inviter.Invite([]sdk.Addr{{Scheme: "quic", Host: "10.0.0.2:9000"}}))
	raw := must(base64.RawURLEncoding.DecodeString(strings.TrimPrefix(invitation.Code(), "cellkernel-invitation-1:")))
	at := 1 + 1 + len("home") + 32 + 8
	canaries := [][]byte{m.secret()[:12], key.Seed()[:12], m.mesh.LinkKey()[:12], raw[at : at+12]}

	type held struct {
		id   identity.Identity
		mesh identity.Mesh
		inv  identity.Invitation
		any  []any
	}
	values := []any{
		m.id, *m.id, m.mesh, *m.mesh, invitation, &invitation, inviter, m.store,
		held{*m.id, *m.mesh, invitation, nil}, &held{any: []any{m.id, m.mesh, invitation}},
		map[string]any{"a": m.id, "b": *m.mesh, "c": invitation},
	}
	var out strings.Builder
	logs := slog.New(slog.NewJSONHandler(&out, nil))
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%p"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
		logs.Info("value", "v", v)
	}
	text := out.String()
	for i, secret := range canaries {
		numbers := strings.Trim(fmt.Sprint(secret), "[]")
		for _, form := range []string{
			string(secret), hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret)), numbers,
			strings.ReplaceAll(numbers, " ", ","), base64.StdEncoding.EncodeToString(secret), base64.RawURLEncoding.EncodeToString(secret),
			strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", secret), "[]byte{"), "}"),
		} {
			if strings.Contains(text, form) {
				t.Errorf("secret %d shows as %.60q", i, form)
			}
		}
	}
	if !strings.Contains(text, string(m.id.Node())) {
		t.Error("not even the node id shows")
	}
}

func TestWipe(t *testing.T) {
	m := newMember(t)
	key := m.mesh.LinkKey()
	m.mesh.Wipe()
	if bytes.Equal(key, m.mesh.LinkKey()) {
		t.Error("the mesh still has its keys")
	}
	node := m.id.Node()
	m.id.Wipe()
	if m.id.Node() != node {
		t.Error("the id is gone")
	}
}
