package e2e_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// spellings are the ways in which a secret may be written somewhere.
func spellings(secret []byte) (list [][]byte) {
	for _, s := range []string{
		string(secret), hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret)),
		base64.RawStdEncoding.EncodeToString(secret), base64.RawURLEncoding.EncodeToString(secret),
		base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(secret),
		fmt.Sprint(secret), fmt.Sprintf("%q", secret),
	} {
		list = append(list, []byte(s))
	}
	return list
}

// secretsOf reads the secrets of a node that has made one invitation.
func secretsOf(n *node, code string) map[string][][]byte {
	n.t.Helper()
	key, err := os.ReadFile(filepath.Join(n.home(), "home", "mesh.key"))
	if err != nil {
		n.t.Fatal(err)
	}
	pem, err := os.ReadFile(n.id().File)
	if err != nil {
		n.t.Fatal(err)
	}
	raw, err := ssh.ParseRawPrivateKey(pem)
	if err != nil {
		n.t.Fatal(err)
	}
	seed := raw.(*ed25519.PrivateKey)
	_, body, _ := strings.Cut(strings.TrimSpace(code), ":")
	b, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		n.t.Fatal(err)
	}
	at := 2 + int(b[1]) + 32 + 8 // version, mesh, node, id of the token
	m := map[string][][]byte{"mesh secret": spellings(key), "seed of the identity": spellings(seed.Seed()), "token": spellings(b[at : at+16])}
	if !bytes.Contains(key, m["mesh secret"][0]) || len(m) != 3 {
		n.t.Fatal("the canary sees nothing")
	}
	m["token"] = append(m["token"], []byte(body))
	m["seed of the identity"] = append(m["seed of the identity"], bytes.TrimSpace(pem))
	return m
}

// free checks that none of the secrets is in b.
func free(t *testing.T, secrets map[string][][]byte, where string, b []byte) {
	t.Helper()
	for what, list := range secrets {
		for _, s := range list {
			if bytes.Contains(b, s) {
				t.Errorf("%s has the %s", where, what)
			}
		}
	}
}

// children lists a process and everything it started.
func children(pid int) []int {
	list := []int{pid}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		b, _ := os.ReadFile(task) // it may have ended
		for _, field := range strings.Fields(string(b)) {
			var child int
			if _, err := fmt.Sscan(field, &child); err == nil {
				list = append(list, children(child)...)
			}
		}
	}
	return list
}

// Secrets are in their files, and in the memory of the kernel: nowhere else.
func TestSecretsStayWhereTheyAre(t *testing.T) {
	t.Parallel()
	n, k := first(t)
	n.env = append(n.env, "GOTRACEBACK=all")
	p := n.second()
	pk := p.up()
	p.mustRelay(p.client(p.mesh(), "c"), "w")
	inv := n.want(0, "invite")
	secrets := secretsOf(n, inv.out)
	free(t, secrets, "standard error of invite", []byte(inv.err))
	seen := 0
	for _, pid := range append(children(k.cmd.Process.Pid), children(pk.cmd.Process.Pid)...) {
		for _, name := range []string{"cmdline", "environ"} {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
			if err != nil && pid != k.cmd.Process.Pid && pid != pk.cmd.Process.Pid {
				t.Logf("read %s of process %d: %v", name, pid, err)
			}
			free(t, secrets, fmt.Sprintf("%s of process %d", name, pid), b)
		}
		seen++
	}
	if seen < 8 { // two kernels, their sweepers, plugins and cells
		t.Errorf("%d processes were looked at, want both kernels and what they started", seen)
	}
	for _, args := range []string{"id -o json", "mesh list -o json", "status -o json", "ps -o json", "plugin list -o json",
		"config show --running", "logs", "deny --list -o json", "version"} {
		free(t, secrets, args, []byte(n.want(0, strings.Fields(args)...).out))
	}
	for _, path := range []string{"identity", "status", "config", "denied", "nothing"} {
		out, err := exec.Command("curl", "-s", "--unix-socket", n.path(".cell/run/admin.sock"), "http://kernel/v1/"+path).Output()
		if err != nil {
			t.Logf("curl: %v", err)
			break
		}
		free(t, secrets, "admin API "+path, out)
	}
	n.want(0, "mesh", "rotate", "--yes") // an end that speaks of the secret
	n.want(0, "down")
	freeFiles(t, secrets, n.dir, p.dir)
	free(t, secrets, "output of the kernel", []byte(k.err.String()+k.out.String()))
}

// freeFiles checks what kernels, plugins and cells have written.
func freeFiles(t *testing.T, secrets map[string][][]byte, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil // it went away, or is a socket
			}
			b, err := os.ReadFile(path)
			if err == nil {
				free(t, secrets, path, b)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// A kernel that crashes leaves no memory behind, whatever its user allows.
func TestKernelsLeaveNoCore(t *testing.T) {
	n := newNode(t, "[cells.w]\ncommand = [\"PROBE\", \"serve\"]\n").inHome()
	n.env = append(n.env, "GOTRACEBACK=crash")
	k := n.up()
	for _, pid := range []int{k.cmd.Process.Pid, n.process("w#1").PID} {
		if err := unix.Prlimit(pid, unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1 << 30, Max: unix.RLIM_INFINITY}, nil); err != nil {
			t.Skipf("allow core files: %v", err)
		}
	}
	control := exec.Command("sleep", "1000")
	control.Dir = n.dir
	if err := control.Start(); err != nil {
		t.Fatal(err)
	}
	err := unix.Prlimit(control.Process.Pid, unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1 << 30, Max: unix.RLIM_INFINITY}, nil)
	kill(t, control.Process.Pid, syscall.SIGABRT)
	_ = control.Wait()
	if s := control.ProcessState.Sys().(syscall.WaitStatus); err != nil || !s.CoreDump() {
		t.Skipf("no process leaves a core file here: %v, %v", err, control.ProcessState)
	}
	k.signal(syscall.SIGABRT)
	k.exit()
	if s := k.cmd.ProcessState.Sys().(syscall.WaitStatus); !s.Signaled() || s.CoreDump() {
		t.Errorf("kernel: got %v, want it killed by a signal, without a core file", k.cmd.ProcessState)
	}
}
