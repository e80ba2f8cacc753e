package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
)

// inHome gives a node a directory of meshes of its own: what another machine has.
func (n *node) inHome() *node {
	n.t.Helper()
	n.env = append(n.env, "CELLKERNEL_HOME="+n.home())
	return n
}

func (n *node) home() string { return filepath.Join(filepath.Dir(n.dir), filepath.Base(n.dir)+"home") }

// ckIn runs a command to its end that reads text from its standard input.
func (n *node) ckIn(code int, text string, args ...string) result {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := n.command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text), &out, &errs
	_ = cmd.Run() // its exit code says it
	if got := cmd.ProcessState.ExitCode(); got != code {
		n.t.Fatalf("cellkernel %s: exit code %d, want %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), got, code, out.String(), errs.String())
	}
	return result{code, out.String(), errs.String()}
}

func parsed[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

func (n *node) id() admin.Identity {
	n.t.Helper()
	return parsed[admin.Identity](n.t, n.want(0, "id", "-o", "json").out)
}

func (n *node) invite(args ...string) admin.Invitation {
	n.t.Helper()
	return parsed[admin.Invitation](n.t, n.want(0, append([]string{"invite", "-o", "json"}, args...)...).out)
}

const firstGenome = `
[kernel]
mesh = "home"
node = "first"
[golgi]
transports = ["uds", "quic"]
listen = "127.0.0.1:0"
[cells.w]
command = ["PROBE", "serve"]
listen = true
`

// first starts the first machine of a mesh, and second a machine beside it
// that has joined, with a cell that calls the other's.
func first(t *testing.T) (*node, *kernel) {
	t.Helper()
	n := newNode(t, firstGenome).inHome()
	n.want(0, "mesh", "create", "home")
	return n, n.up()
}

func (n *node) second() *node {
	n.t.Helper()
	i := n.invite()
	p := n.peer("p", `
[kernel]
mesh = "home"
node = "second"
[golgi]
transports = ["uds", "quic"]
listen = "127.0.0.1:0"
[cells.c]
command = ["PROBE", "serve"]
axons = { w = { to = ["axon://`+strings.TrimPrefix(i.Addresses[0], "quic://")+`/w"], wait = false } }
`).inHome()
	p.ckIn(0, i.Code+"\n", "join")
	return p
}

func TestWhoIsThisNode(t *testing.T) {
	t.Parallel()
	n := newNode(t, "[kernel]\nnode = \"desk\"\n[cells.w]\ncommand = [\"PROBE\", \"serve\"]\n").inHome()
	r := n.want(0, "id")
	contains(t, r.err, "made the key of node desk")
	contains(t, r.out, "node         desk\n", "mesh         private ")
	before := n.id()
	if before.New || before.Mesh != "private" || len(before.MeshID) != 8 || !strings.Contains(r.out, string(before.NodeID)) {
		t.Errorf("id: got %+v after %s", before, r.out)
	}
	n.up()
	if running := n.id(); running != before {
		t.Errorf("id of the kernel: got %+v, want %+v", running, before)
	}
	out, err := exec.Command("ssh-keygen", "-y", "-f", before.File).CombinedOutput()
	if err != nil {
		t.Skipf("ssh-keygen: %v: %s", err, out)
	}
	if got := strings.Join(strings.Fields(string(out))[:2], " "); got != before.PublicKey {
		t.Errorf("ssh-keygen -y: got %s, want %s", got, before.PublicKey)
	}
	out, err = exec.Command("ssh-keygen", "-l", "-f", before.File).CombinedOutput()
	if err != nil || !strings.Contains(string(out), before.Fingerprint) {
		t.Errorf("ssh-keygen -l: got %s, %v, want %s", out, err, before.Fingerprint)
	}
}

func TestMeshesOfAMachine(t *testing.T) {
	t.Parallel()
	n := newNode(t, firstGenome).inHome()
	if got := n.want(0, "mesh", "list", "-o", "json").out; got != "[]\n" {
		t.Errorf("mesh list: got %q", got)
	}
	r := n.want(4, "up")
	contains(t, r.err, `"home"`, "cellkernel mesh create home", "cellkernel join")
	contains(t, n.want(4, "up", "-d").err, "cellkernel mesh create home")
	contains(t, n.want(0, "id").out, "home (this machine is not in it)")
	n.want(4, "mesh", "rotate", "--yes")
	n.want(4, "mesh", "rotate", "home", "--yes")
	n.want(2, "mesh", "create", "no name")
	made := n.want(0, "mesh", "create", "home")
	contains(t, made.err, `mesh = "home"`)
	contains(t, n.want(1, "mesh", "create", "home").err, "already", "mesh rotate")
	id := n.id().MeshID
	if made.out != "mesh home "+id+"\n" {
		t.Errorf("mesh create: got %q, want id %s", made.out, id)
	}
	contains(t, n.want(0, "mesh", "list").out, "home", id, "first", n.home())
	n.want(0, "mesh", "rotate", "home", "--yes")
	other := n.id().MeshID
	n.want(0, "mesh", "rotate", "--yes")
	if third := n.id().MeshID; id == other || other == third || id == third {
		t.Errorf("mesh rotate: %s, %s, %s", id, other, third)
	}
	// What others could have read is refused, with what to do.
	for _, name := range []string{"mesh.key", "first/identity"} {
		path := filepath.Join(n.home(), "home", name)
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		contains(t, n.want(6, "up").err, "chmod 0600 "+path)
		n.want(6, "id")
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestInviteAndJoin(t *testing.T) {
	t.Parallel()
	alone := newNode(t, "[cells.w]\ncommand = [\"PROBE\", \"serve\"]\n").inHome()
	contains(t, alone.want(5, "invite").err, "none is running")
	alone.up()
	contains(t, alone.want(5, "invite").err, "nothing of this node listens", "listen = true")

	n, k := first(t)
	r := n.want(0, "invite", "--address", "192.0.2.7")
	contains(t, r.err, "mesh home", string(n.id().NodeID), "quic://127.0.0.1:", "quic://192.0.2.7:")
	if strings.Count(r.out, "\n") != 1 || strings.Contains(r.err, strings.TrimSpace(r.out)) {
		t.Errorf("invite: want the code on stdout and nowhere else, got %q and %q", r.out, r.err)
	}
	n.want(2, "invite", "--address", "tcp://192.0.2.7")
	if got := n.want(0, "invite", "--revoke").out; got != "revoked 1\n" {
		t.Errorf("invite --revoke: got %q", got)
	}
	p := n.peer("p", "").inHome()
	p.want(2, "join", "cellkernel-invitation-1:x")
	p.ckIn(2, "", "join")
	contains(t, p.ckIn(2, r.out[:40]+"\n", "join").err, "not complete")
	code := n.invite().Code
	joined := p.ckIn(0, code[:30]+"\n  "+code[30:], "join", "--node", "pi")
	contains(t, joined.out, "mesh home "+n.id().MeshID, "node pi ")
	contains(t, joined.err, `mesh = "home"`)
	node := strings.Fields(joined.out)[5]
	k.err.await(t, "node "+node+" has joined the mesh")
	contains(t, n.want(0, "logs", "kernel").out, "node "+node+" has joined the mesh")
	contains(t, p.ckIn(1, code, "join").err, "--replace", n.id().MeshID)
	contains(t, p.ckIn(6, code, "join", "--replace").err, "ask for another")
	// Under another name both meshes are there.
	contains(t, p.ckIn(0, n.invite().Code, "join", "--mesh", "other").out, "mesh other ")
	contains(t, p.want(0, "mesh", "list").out, "home", "other")
	// Who is denied is not let in by an invitation.
	n.want(0, "deny", node)
	p.ckIn(6, n.invite().Code, "join", "--replace", "--node", "pi")
	late := n.invite()
	n.want(0, "down")
	contains(t, p.ckIn(5, late.Code, "join", "--replace").err, "invite --address")
}

func TestDeniedNodesAreCutOff(t *testing.T) {
	t.Parallel()
	n, _ := first(t)
	p := n.second()
	p.up()
	c := p.client(p.mesh(), "c")
	p.mustRelay(c, "w")
	id := string(p.id().NodeID)
	denied := func(what string) {
		t.Helper()
		n.inTime(what, timed(func() {
			n.eventually(what, func() bool { return p.relay(c, "w", 300*time.Millisecond).Code == "denied" })
		}), time.Second)
	}
	allowed := func() {
		t.Helper()
		n.eventually("it may call again", func() bool { return p.relay(c, "w", time.Second).Code == "" })
	}
	d := parsed[admin.Denial](t, n.want(0, "deny", id, "-o", "json").out)
	if d.Links == 0 || string(d.NodeID) != id {
		t.Errorf("deny: got %+v, want links that were ended", d)
	}
	denied("cut off by the command")
	if got := n.want(0, "deny", "--list").out; got != id+"\n" {
		t.Errorf("deny --list: got %q", got)
	}
	n.want(0, "undeny", id)
	n.want(4, "undeny", id)
	allowed()
	file := filepath.Join(n.home(), "home", "deny")
	if err := os.WriteFile(file, []byte("# by hand\n"+id+" # the second\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	denied("cut off by hand")
	// A list that is not understood lets nobody in.
	if err := os.WriteFile(file, []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.eventually("the mistake is reported", func() bool {
		return strings.Contains(n.want(0, "logs", "kernel").out, "the deny list stays as it is")
	})
	denied("still cut off")
	contains(t, n.want(2, "deny", string(n.id().NodeID)).err, "it is this node")
	contains(t, n.want(2, "deny", n.id().Node).err, "it is this node")
	n.want(4, "deny", "nobody")
	n.want(2, "deny", "No Name")
	n.want(2, "deny")
	n.want(0, "down")
	contains(t, n.want(1, "up").err, "deny:1")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	// Without a kernel it is the file; the next kernel reads it.
	n.want(4, "deny", "second")
	n.want(0, "deny", id)
	n.want(0, "undeny", id)
	n.want(0, "deny", id)
	n.up()
	if got := n.want(0, "deny", "--list").out; got != id+"\n" {
		t.Errorf("deny --list after a restart: got %q", got)
	}
}

// timed returns how long f takes.
func timed(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

func TestRotatedMeshIsEmpty(t *testing.T) {
	t.Parallel()
	n, _ := first(t)
	p := n.second()
	k := p.up()
	c := p.client(p.mesh(), "c")
	p.mustRelay(c, "w")
	code := n.invite().Code
	contains(t, n.want(0, "mesh", "rotate", "--yes").err, "links ended: ", "invited again")
	n.inTime("cut off by the rotation", timed(func() {
		n.eventually("the call is refused", func() bool { return p.relay(c, "w", 300*time.Millisecond).Code != "" })
	}), time.Second)
	if n.id().MeshID == p.id().MeshID {
		t.Fatal("both have the same secret still")
	}
	p.ckIn(6, code, "join", "--replace") // into what is no more
	p.ckIn(0, n.invite().Code, "join", "--replace")
	k.err.await(t, "the secret of the mesh was replaced on disk")
	n.eventually("the call goes through again", func() bool { return p.relay(c, "w", time.Second).Code == "" })
}
