package e2e_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/cellkernel/cellkernel/kernel/admin"
)

// newMesh makes the key directory of machines that are in the mesh "lab".
func newMesh(t *testing.T) string {
	t.Helper()
	home, err := os.MkdirTemp("", "cke")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	key := make([]byte, 32)
	rand.Read(key)
	err = os.Mkdir(filepath.Join(home, "lab"), 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(home, "lab", "mesh.key"), key, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return home
}

// freeDoor returns a UDP port of the loopback that nobody has.
func freeDoor(t *testing.T) string {
	t.Helper()
	_, port, err := net.SplitHostPort(freePort(t, "udp"))
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// farNode makes a node called name that listens on the loopback, in the mesh
// whose keys are in home.
func farNode(t *testing.T, home, name, genome string) *node {
	t.Helper()
	n := newNode(t, "[kernel]\nmesh = \"lab\"\nnode = \""+name+"\"\n"+genome)
	n.env = append(n.env, "CELLKERNEL_HOME="+home)
	return n
}

func (n *node) peers() *admin.Peers {
	n.t.Helper()
	p := new(admin.Peers)
	if err := json.Unmarshal([]byte(n.want(0, "peers", "-o", "json").out), p); err != nil {
		n.t.Fatal(err)
	}
	return p
}

const storeCell = `
[cells.store]
command = ["PROBE", "serve"]
listen = true
`

func TestStaticAddressesAreSeenPingedAndExplained(t *testing.T) {
	t.Parallel()
	home, port, shut := newMesh(t), freeDoor(t), freeDoor(t)
	b := farNode(t, home, "bee", "[golgi]\ndiscovery = []\nlisten = \"127.0.0.1:"+port+"\""+storeCell)
	b.up()
	a := farNode(t, home, "ant", `
[golgi]
discovery = []
[cells.shop]
command = ["PROBE", "serve"]
axons = { store = "axon://127.0.0.1:`+port+`/store", shut = "axon://127.0.0.1:`+shut+`/store" }
`)
	a.up()
	a.mustRelay(a.client(a.mesh(), "shop"), "store")
	var bee, unknown *admin.Peer
	list := a.peers().Peers
	for i := range list {
		if list[i].Name == "bee" {
			bee = &list[i]
		} else {
			unknown = &list[i]
		}
	}
	if bee == nil || bee.State != admin.PeerVerified || bee.RTTUS <= 0 || bee.Origins[0].Source != "axon" || bee.Node == "" {
		t.Errorf("the address where somebody answers: got %+v", bee)
	}
	if unknown == nil || unknown.State != admin.PeerUnknown || unknown.RTTUS != 0 {
		t.Errorf("the address where nobody does: got %+v", unknown)
	}
	contains(t, a.want(0, "ping", "127.0.0.1:"+port, "-c", "2").out, "bee (", "2 of 2 answered: min ")
	a.refusedPings(b, port, shut)
	contains(t, a.want(0, "explain", "store.Echo", "--from", "shop").out,
		`rule      axon allows: cell "shop": store = axon://127.0.0.1:`+port+`/store`, "found   by its address in the axon",
		"tried   quic://127.0.0.1:"+port+": answers", "encrypted, both ends proved", "Echo exists")
	a.want(4, "explain", "store.Nothing", "--from", "shop")
	contains(t, a.want(5, "explain", "shut", "--from", "shop").out, "tried   quic://127.0.0.1:"+shut+": fails after", "nobody can be reached")
	a.want(4, "explain", "store", "--from", "nobody")
	contains(t, a.want(0, "status").out, "reachable from this machine only")
	contains(t, b.want(0, "status").out, "reachable from this machine only, at quic://127.0.0.1:"+port)
}

// refusedPings pings what does not answer: the text says what was asked, what
// is in the way, and what to do, and the exit code says which kind it is.
func (a *node) refusedPings(b *node, port, shut string) {
	a.t.Helper()
	bee, nobody := string(b.id().NodeID), strings.Repeat("a", 52)
	said := func(code int, to string, want ...string) {
		a.t.Helper()
		contains(a.t, a.want(code, "ping", to).err, want...)
	}
	said(4, "nobody", `find node "nobody": nobody of that name or id was seen`, `hint: "cellkernel peers" lists the nodes`)
	said(4, nobody, `ping "`+nobody+`": no node of that id was seen`, "hint: ")
	said(5, "127.0.0.1:"+shut, `ping "127.0.0.1:`+shut+`": quic://127.0.0.1:`+shut+": ", "connection refused", "explain golgi@")
	a.want(0, "deny", bee)
	said(6, bee, `ping "`+bee+`": node `+bee[:8]+" is on the deny list of this mesh", `hint: "cellkernel deny --list"`)
	said(6, "127.0.0.1:"+port, `ping "127.0.0.1:`+port+`": `, "is on the deny list", "hint: ")
	contains(a.t, a.want(4, "deny", "kitchen").err, `deny "kitchen": no node of that name was seen`, `hint: "cellkernel id"`)
	contains(a.t, a.want(2, "deny", "no name").err, `deny "no name": want the id or the name of a node`)
	a.want(0, "undeny", bee)
	contains(a.t, a.want(2, "plugin", "swap", "transport-quic", "quic").err, "that is what runs: nothing changes", "plugin restart")
}

// A kernel whose cells are for its machine runs no plugin that leaves it.
func TestPingWithoutANetwork(t *testing.T) {
	t.Parallel()
	n := farNode(t, newMesh(t), "hermit", `
[golgi]
discovery = []
[cells.store]
command = ["PROBE", "serve"]
`)
	n.up()
	contains(t, n.want(5, "ping", "127.0.0.1:1").err, `ping "127.0.0.1:1": this kernel reaches no other machine`, "hint: give a cell listen = true")
	contains(t, n.want(0, "ping", "hermit", "-c", "1").out, "1 of 1 answered")
}

// swappedThereAndBack swaps a discovery: status and config say so, and nothing
// once it is back, however often.
func (a *node) swappedThereAndBack(own, other string) {
	a.t.Helper()
	contains(a.t, a.want(5, "plugin", "swap", own, "/nonexistent/plugin").err, "no such file")
	const differs = "differs from the genome: "
	for range 2 {
		a.want(0, "plugin", "swap", "discovery-"+own, "discovery-"+other)
		status := a.want(0, "status").out
		contains(a.t, status, differs+"plugin discovery-"+other)
		contains(a.t, status, "runs in the place of discovery-"+own)
		if n := strings.Count(status, differs); n != 1 {
			a.t.Errorf("want one difference, got %d\n%s", n, status)
		}
		contains(a.t, a.want(0, "config", "show", "--running", "--origin").out, "plugin swap")
		a.want(0, "plugin", "swap", other, own)
		if status = a.want(0, "status").out; strings.Contains(status, differs) {
			a.t.Errorf("a difference after the swap back\n%s", status)
		}
		if out := a.want(0, "config", "show", "--running", "--origin").out; strings.Contains(out, "plugin swap") {
			a.t.Errorf("an origin after the swap back\n%s", out)
		}
	}
}

// deniedByName denies and pings the node bee by its name.
func (a *node) deniedByName(b *node) {
	a.t.Helper()
	bee := string(b.id().NodeID)
	a.want(0, "deny", "bee")
	contains(a.t, a.want(6, "ping", "bee").err, "node "+bee[:8]+" is on the deny list of this mesh", "undeny")
	if got := a.want(0, "undeny", bee).out; got != "node "+bee+" is not denied any more\n" {
		a.t.Errorf("undeny: got %q", got)
	}
}

func TestALighthouseShowsNodesToEachOther(t *testing.T) {
	t.Parallel()
	home, light := newMesh(t), freeDoor(t)
	lamp := farNode(t, home, "lamp", "").start("lighthouse", "--listen", "127.0.0.1:"+light)
	lamp.err.await(t, "127.0.0.1:"+light)
	golgi := `
[golgi]
listen = "127.0.0.1:0"
discovery = ["lighthouse"]
[plugins.discovery-lighthouse]
servers = ["127.0.0.1:` + light + `"]
beat = "500ms"
`
	b := farNode(t, home, "bee", golgi+storeCell+"allow = [\"shop\"]\n")
	b.up()
	a := farNode(t, home, "ant", golgi+`
[plugins.discovery-spare]
use = "lighthouse"
servers = ["127.0.0.1:`+light+`"]
beat = "500ms"
[cells.shop]
command = ["PROBE", "serve"]
axons = { store = "axon://store" }
[cells.thief]
command = ["PROBE", "serve"]
axons = { store = "axon://store", none = "axon://nobody" }
`)
	a.up()
	a.mustRelay(a.client(a.mesh(), "shop"), "store")
	r := a.want(0, "peers")
	contains(t, r.out, "discovery lighthouse: up for ", "last event ", "store")
	if !regexp.MustCompile(`(?m)^\S+ +bee +verified +\d.* quic://127\.0\.0\.1:\d+ +lighthouse$`).MatchString(r.out) {
		t.Errorf("no row of bee with a round trip in\n%s", r.out)
	}
	contains(t, a.want(0, "ping", "bee", "-c", "1").out, "1 of 1 answered")
	contains(t, a.want(0, "explain", "store.Echo", "--from", "shop").out, "found   by discovery lighthouse, seen at 127.0.0.1:", "answers", "Echo exists")
	contains(t, a.want(6, "explain", "store", "--from", "thief").out, "denied: ", "allow list")
	contains(t, a.want(5, "explain", "none", "--from", "thief").out, `nobody who is known serves "none"`)
	a.swappedThereAndBack("lighthouse", "spare")
	contains(t, b.want(5, "ping", "ant").err, "none of its cells listens for other machines", "hint: give a cell listen = true in the genome.toml of that node")
	if r := b.want(0, "peers"); !regexp.MustCompile(`(?m)^\S+ +ant +verified .* - +(lighthouse|-)$`).MatchString(r.out) {
		t.Errorf("an address of ant, which can not be dialled, in\n%s", r.out)
	}
	contains(t, a.want(0, "status").out, "finds others by lighthouse")
	var text strings.Builder
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	scrape(ctx, t, a, &text)
	contains(t, text.String(), `cellkernel_peers{state="verified"} 1`, `cellkernel_announcements_total{verdict="new"} 1`, `cellkernel_discovery_up{discovery="lighthouse"} 1`)
	a.deniedByName(b)
}

// scrape reads the metrics from the admin socket.
func scrape(ctx context.Context, t *testing.T, n *node, w io.Writer) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", n.path(".cell/run/"+admin.SocketName))
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://kernel/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		t.Fatal(err)
	}
}

// A devstack is a mesh that leaves nothing behind.
func TestDevstack(t *testing.T) {
	t.Parallel()
	n := newNode(t, "[cells.store]\ncommand = [\"PROBE\", \"serve\"]\n[cells.once]\ncommand = [\"PROBE\", \"once\", \"0\", \"store\"]\njob = true\naxons = { store = \"axon://store\" }\n")
	n.env = append(n.env, "TMPDIR="+n.run)
	k := n.start("devstack", "--nodes", "2", n.path("genome.toml"))
	k.err.await(t, "all nodes are ready")
	second := regexp.MustCompile(`--genome (\S+/node2)\n`)
	n.eventually("it says where its nodes are", func() bool { return second.MatchString(k.err.String()) })
	dir := second.FindStringSubmatch(k.err.String())[1]
	n.eventually("the nodes see each other", func() bool {
		return regexp.MustCompile(`(?m)^\S+ +node1 +verified +\d`).MatchString(n.want(0, "peers", "--genome", dir).out)
	})
	contains(t, n.want(0, "explain", "store.Echo", "--genome", dir).out, "endpoint  replica store#1@1", "endpoint  node node1", "Echo exists")
	k.err.await(t, "once from store")
	k.signal(syscall.SIGINT)
	if code := k.exit(); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
	if left, err := filepath.Glob(filepath.Join(n.run, "ckdev*")); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
	n.want(2, "devstack", "--nodes", "0")
}

// One that is killed takes its kernels along.
func TestDevstackThatIsKilled(t *testing.T) {
	t.Parallel()
	n := newNode(t, "[cells.store]\ncommand = [\"PROBE\", \"serve\"]\n")
	n.env = append(n.env, "TMPDIR="+n.run)
	k := n.start("devstack", "--nodes", "1", n.path("genome.toml"))
	k.err.await(t, "all nodes are ready")
	if n.inherited("CELLKERNEL_HOME="+n.run) < 2 {
		t.Error("want a kernel and a lighthouse")
	}
	k.signal(syscall.SIGKILL)
	k.exit()
	n.eventually("its kernel and its lighthouse end", func() bool { return n.inherited("CELLKERNEL_HOME="+n.run) == 0 })
}

// inherited counts the processes with a variable that begins so.
func (n *node) inherited(variable string) (count int) {
	n.t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		n.t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil && (bytes.HasPrefix(text, []byte(variable)) || bytes.Contains(text, []byte("\x00"+variable))) {
			count++
		}
	}
	return count
}
