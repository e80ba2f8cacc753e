package main

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// examination runs doctor in a directory and returns what it found, by check.
func examination(t *testing.T, dir string) (map[string][]finding, int) {
	t.Helper()
	t.Chdir(dir)
	var out, errs bytes.Buffer
	code := newApp(nil, &out, &errs).run(t.Context(), []string{"doctor", "-o", "json"})
	var list []finding
	if err := json.Unmarshal(out.Bytes(), &list); err != nil {
		t.Fatalf("%v: %s%s", err, out.String(), errs.String())
	}
	by := map[string][]finding{}
	for _, f := range list {
		by[f.Check] = append(by[f.Check], f)
		if f.State != doctorOK && f.State != doctorWarn && f.State != doctorFail || f.Detail == "" {
			t.Errorf("%+v", f)
		}
	}
	return by, code
}

func TestDoctorFindsWhatIsWrong(t *testing.T) {
	dir, run := dirs(t, "") // short: addresses of sockets are
	home := filepath.Join(filepath.Dir(dir), "keys")
	if err := os.Remove(filepath.Join(dir, "genome.toml")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CELLKERNEL_HOME", home)
	t.Setenv("XDG_RUNTIME_DIR", run)
	by, code := examination(t, dir)
	for _, check := range []string{"multicast", "buffers", "clock", "cgroup", "keys", "sockets", "go", "files"} {
		if len(by[check]) != 1 {
			t.Errorf("%d findings of %s", len(by[check]), check)
		}
	}
	if code != 0 || by["keys"][0].State != doctorOK || by["sockets"][0].State != doctorOK {
		t.Fatalf("without a genome: exit code %d, %+v", code, by)
	}
	taken, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	mesh := filepath.Join(home, "lab")
	key := filepath.Join(mesh, "mesh.key")
	genome := "[kernel]\nmesh = \"lab\"\n[golgi]\nlisten = \"" + taken.LocalAddr().String() + "\"\n[cells.a]\ncommand = [\"true\"]\nlisten = true\n"
	if err := os.WriteFile(filepath.Join(dir, "genome.toml"), []byte(genome), 0o600); err != nil {
		t.Fatal(err)
	}
	by, code = examination(t, dir)
	if f := by["ports"]; code != exitFailed || len(f) != 1 || f[0].State != doctorFail || !strings.Contains(f[0].Fix, "ss -lunp") {
		t.Errorf("a port that is taken: exit code %d, %+v", code, f)
	}
	if f := by["keys"][0]; f.State != doctorFail || !strings.Contains(f.Detail, `not in mesh "lab"`) {
		t.Errorf("no key: %+v", f)
	}
	if err := os.MkdirAll(mesh, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, make([]byte, 32), 0o644); err != nil {
		t.Fatal(err)
	}
	taken.Close()
	by, code = examination(t, dir)
	if f := by["keys"][0]; code != exitFailed || f.Fix != "chmod 600 "+key {
		t.Errorf("a key that others can read: exit code %d, %+v", code, f)
	}
	if f := by["ports"]; f[0].State != doctorOK {
		t.Errorf("a port that is free: %+v", f)
	}
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "genome.toml"), []byte(genome+"[plugins.discovery-multicast]\ninterfaces = [\"none-such*\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if by, code = examination(t, dir); code != 0 {
		t.Errorf("when all is mended: exit code %d, %+v", code, by)
	}
	f := by["multicast"][0] // where it works at all, by the interfaces that the genome names
	if f.State != doctorWarn || !strings.HasPrefix(f.Detail, "not here: ") && !strings.Contains(f.Detail, `one of ["none-such*"]`) {
		t.Errorf("interfaces that are not there: %+v", f)
	}
}
