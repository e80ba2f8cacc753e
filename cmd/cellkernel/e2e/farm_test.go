package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/internal/page"
)

// A farm is the machines of a page: directories of one machine, each with a
// home, that find each other on its loopback.
type farm struct {
	t                  *testing.T
	base               string // short: sockets are in it
	first              *machine
	machines           map[string]*machine
	light, light2      string // addresses of lighthouses
	lightMetrics       string
	metrics, metrics2  string
	goDir              string // where the command go is
	multicast          string // port
	invitation, shared string // the last one that was printed; what stands in for programs
	booted             int
}

// A machine is one of them, and the terminal of who works there.
type machine struct {
	f                       *farm
	name, home, cwd, listen string
	env                     []string
}

func newFarm(t *testing.T) *farm {
	t.Helper()
	base, err := os.MkdirTemp("", "ck")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	f := &farm{t: t, base: base, machines: map[string]*machine{}, goDir: filepath.Dir(tool), multicast: freeDoor(t), shared: filepath.Join(base, "bin"),
		light: freePort(t, "udp"), light2: freePort(t, "udp"), lightMetrics: freePort(t, "tcp"), metrics: freePort(t, "tcp"), metrics2: freePort(t, "tcp")}
	f.standIns()
	for name, node := range map[string]string{"first": "desk-farm", "second": "kitchen-pi", "beacon": "beacon"} {
		f.machines[name] = f.newMachine(name, node)
	}
	f.first = f.machines["first"]
	return f
}

// machine is the one that a block is for.
func (f *farm) machine(at string, b page.Block) *machine {
	f.t.Helper()
	m := f.machines[b.Words[0]]
	if m == nil {
		f.t.Fatalf("%s: a block is for the machine first, second or beacon, not %q", at, b.Words[0])
	}
	return m
}

func (f *farm) newMachine(name, node string) *machine {
	m := &machine{f: f, name: name, home: filepath.Join(f.base, name), listen: freePort(f.t, "udp")}
	m.cwd = m.home
	run, bin := filepath.Join(f.base, name[:1]), filepath.Join(m.home, "go/bin")
	err := errors.Join(os.MkdirAll(bin, 0o700), os.Mkdir(run, 0o700), os.Symlink(binary, filepath.Join(bin, "cellkernel")))
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "CELLKERNEL_") {
			m.env = append(m.env, v)
		}
	}
	for _, key := range []string{"GOCACHE", "GOMODCACHE", "GOPROXY", "GOSUMDB"} {
		out, e := exec.Command("go", "env", key).Output()
		err = errors.Join(err, e)
		m.env = append(m.env, key+"="+strings.TrimSpace(string(out)))
	}
	m.env = append(m.env, "HOME="+m.home, "XDG_RUNTIME_DIR="+run, "TMPDIR="+f.base, "NO_COLOR=1", "GOFLAGS=-buildvcs=false",
		"PATH="+strings.Join([]string{bin, f.shared, f.goDir, os.Getenv("PATH")}, ":"),
		"CELLKERNEL_HOME="+filepath.Join(m.home, ".cell"), "CELLKERNEL_KERNEL__NODE="+node, "CELLKERNEL_GOLGI__LISTEN="+m.listen,
		"CELLKERNEL_PLUGINS__DISCOVERY_MULTICAST__PORT="+f.multicast, `CELLKERNEL_PLUGINS__DISCOVERY_MULTICAST__INTERFACES=["lo"]`)
	// For ssh, which enters it from another machine.
	text := "cd '" + m.home + "'\n"
	for _, v := range m.env[len(m.env)-11:] {
		key, value, _ := strings.Cut(v, "=")
		text += "export " + key + "='" + value + "'\n"
	}
	if err := errors.Join(err, os.WriteFile(filepath.Join(f.shared, name+".env"), []byte(text), 0o600)); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(m.end)
	return m
}

// end ends the kernel where a page leaves one running, by its genome.
func (m *machine) end() {
	list, err := filepath.Glob(filepath.Join(m.home, "*/.cell/run"))
	for _, run := range list {
		out, e := m.do(context.Background(), "cellkernel down --now --genome "+filepath.Dir(filepath.Dir(run))+" || true")
		if m.f.t.Failed() {
			m.f.t.Logf("%s: down: %v\n%s", m.name, e, out)
		}
		err = errors.Join(err, e)
	}
	if err != nil {
		m.f.t.Error(err)
	}
}

func (m *machine) write(at, file, text string) {
	m.f.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
		m.f.t.Fatalf("%s: %v", at, err)
	}
}

// command prepares a block as it is typed, where the one before it ended.
func (m *machine) command(ctx context.Context, sh string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", sh)
	cmd.Dir, cmd.Env = m.cwd, append(slices.Clone(m.env), "PWD="+m.cwd)
	// What is asked for at a terminal is an invitation.
	cmd.Stdin = strings.NewReader(m.f.invitation + "\n")
	// A shell that hangs is ended with what it has started.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = patience
	return cmd
}

func (m *machine) do(ctx context.Context, sh string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*patience)
	defer cancel()
	note := filepath.Join(m.home, ".pwd")
	out, err := m.command(ctx, sh+"\npwd > '"+note+"'\n").CombinedOutput()
	if err != nil {
		return string(out), err
	}
	dir, err := os.ReadFile(note)
	m.cwd = strings.TrimSpace(string(dir))
	return string(out), err
}

func (m *machine) must(at, sh string) string {
	m.f.t.Helper()
	out, err := m.do(m.f.t.Context(), sh)
	if err != nil {
		m.f.t.Fatalf("%s: %s: %v\n%s", at, sh, err, out)
	}
	return out
}

var (
	// looks are blocks that change nothing: what they wait for tells nobody.
	looks = regexp.MustCompile(`^(?:(?:cellkernel (?:status|peers|ping|explain|logs|wallet|wallet history|version|id|mesh list|plugin list|config check|run)\b|curl -s |journalctl ).*\n?)+$`)
	// findings is what ends with 1 for a reason of the machine that tests.
	findings   = regexp.MustCompile(`^cellkernel doctor$`)
	invitation = regexp.MustCompile(`(?m)^cellkernel-invitation-1:\S+$`)
)

// shell does a block, and one that only looks until it shows what it should.
func (m *machine) shell(at string, b page.Block) {
	m.f.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * look) {
		out, err := m.do(m.f.t.Context(), b.Text)
		if e := (*exec.ExitError)(nil); findings.MatchString(b.Text) && errors.As(err, &e) && e.ExitCode() == 1 {
			err = nil
		}
		w := page.Missing(out, b.Want)
		if code := invitation.FindString(out); code != "" {
			m.f.invitation = code
		}
		if err == nil && w == "" {
			return
		}
		if !looks.MatchString(b.Text) || time.Now().After(end) {
			m.f.t.Fatalf("%s: %v, no line %q in\n%s", at, err, w, out)
		}
	}
}

// stay does a block that goes on until somebody interrupts it, at the end of
// the page.
func (m *machine) stay(at string, b page.Block) {
	m.f.t.Helper()
	cmd, out, ended := m.command(context.WithoutCancel(m.f.t.Context()), "exec "+b.Text), newOutput(), make(chan struct{})
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		m.f.t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // ProcessState says it
		close(ended)
	}()
	m.f.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT) // it may have ended
		select {
		case <-ended:
		case <-time.After(patience):
			_ = cmd.Cancel()
			<-ended
		}
		if code := cmd.ProcessState.ExitCode(); code != 0 && code != 130 {
			m.f.t.Errorf("%s: exit code %d\n%s", at, code, out.String())
		}
	})
	for end := time.Now().Add(2 * patience); page.Missing(out.String(), b.Want) != "" || len(b.Want) == 0; time.Sleep(look) {
		select {
		case <-ended:
			m.f.t.Fatalf("%s: it ended\n%s", at, out.String())
		default:
		}
		if time.Now().After(end) {
			m.f.t.Fatalf("%s: no line %q in\n%s", at, page.Missing(out.String(), b.Want), out.String())
		}
	}
}

// standIns writes what takes the place of programs that would reach beyond the
// farm: other machines, and the service manager of the user who tests.
func (f *farm) standIns() {
	err := os.Mkdir(f.shared, 0o700)
	for _, name := range []string{"ssh", "systemctl", "loginctl", "journalctl"} {
		text, e := os.ReadFile(filepath.Join("testdata", "standin", name+".sh"))
		err = errors.Join(err, e, os.WriteFile(filepath.Join(f.shared, name), text, 0o700))
	}
	if err != nil {
		f.t.Fatal(fmt.Errorf("write stand-ins: %w", err))
	}
}
