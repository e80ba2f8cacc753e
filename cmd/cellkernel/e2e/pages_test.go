package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/internal/page"
)

// The pages for people who run a mesh are done as they are written: every block
// of shell, every genome, the unit of systemd. What can not be done fails.
func TestPagesAreDone(t *testing.T) {
	for name, least := range map[string]int{"operate.md": 30, "discovery.md": 6, "security.md": 4, "billing.md": 10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(filepath.Join(checkout, "docs", name))
			if err != nil {
				t.Fatal(err)
			}
			f := newFarm(t)
			done := 0
			for _, b := range page.Blocks(string(text)) {
				if f.block(fmt.Sprintf("docs/%s:%d", name, b.Line), b) {
					done++
				}
			}
			if done < least {
				t.Errorf("%d blocks were done: the page or this test is wrong", done)
			}
		})
	}
}

// block does one block, and reports whether there was something to do.
func (f *farm) block(at string, b page.Block) bool {
	f.t.Helper()
	b.Text = f.mapped(b)
	switch b.Lang {
	case "sh":
		m := f.machine(at, b)
		if b.Has("stays") {
			m.stay(at, b)
		} else {
			m.shell(at, b)
		}
	case "toml":
		if b.Words[0] == "" {
			f.boot(at, b.Text)
		} else {
			m := f.machine(at, b)
			m.write(at, filepath.Join(m.cwd, "genome.toml"), b.Text)
			m.must(at, "cellkernel config check")
		}
	case "ini":
		f.machine(at, b).unit(at, b.Text)
	case "text":
		if b.Has("tree") {
			f.first.tree(at, b.Text)
			return true
		}
		return false // bytes of a protocol, or what a page draws
	default:
		f.t.Fatalf("%s: nobody knows how to do a block of %q", at, b.Lang)
	}
	return true
}

// mapped puts addresses of this machine in the place of those in a block.
func (f *farm) mapped(b page.Block) string {
	pairs := []string{
		"203.0.113.7:9443", f.light, "lighthouse.example:9443", strings.Replace(f.light, "127.0.0.1", "localhost", 1),
		"home.example:9000", f.first.listen, "127.0.0.1:9100", f.metrics,
		`["eth0", "wl*"]`, `["lo"]`, "/usr/local/go/bin", f.goDir,
	}
	if b.Lang == "toml" { // a lighthouse beside the one in a terminal
		pairs = append(pairs, `"127.0.0.1:9443"`, `"`+f.light2+`"`, `":9443"`, `"`+f.light2+`"`, "127.0.0.1:9444", f.metrics2)
	} else {
		pairs = append(pairs, "127.0.0.1:9443", f.light, " :9443", " "+f.light, "127.0.0.1:9444", f.lightMetrics)
	}
	return strings.NewReplacer(pairs...).Replace(b.Text)
}

var pluginSection = regexp.MustCompile(`(?m)^\[plugins\.(\w+)-(\w+)\]`)

// boot runs a genome that is no machine's, and sees that it and each plugin
// that it configures are ready. A cell is added where it has none.
func (f *farm) boot(at, genome string) {
	f.t.Helper()
	m := f.first
	back := m.cwd
	defer func() { m.cwd = back }()
	m.cwd = filepath.Join(m.home, fmt.Sprintf("boot%d", f.booted))
	f.booted++
	if !strings.Contains(genome, "[cells.") {
		genome += fmt.Sprintf("\n[cells.any]\ncommand = [%q, \"serve\"]\nlisten = true\n", probe)
	}
	m.write(at, filepath.Join(m.cwd, "genome.toml"), genome)
	m.must(at, "cellkernel config check")
	m.must(at, "cellkernel up -d")
	for _, p := range pluginSection.FindAllStringSubmatch(genome, -1) {
		if w := page.Missing(m.must(at, "cellkernel plugin list"), []string{p[1] + " " + p[2] + " … ready …"}); w != "" {
			f.t.Errorf("%s: plugin %s-%s is not ready", at, p[1], p[2])
		}
	}
	m.must(at, "cellkernel status")
	m.must(at, "cellkernel down")
}

// unit installs a unit. systemd checks it where there is systemd; that its
// ExecStart works shows when it is started.
func (m *machine) unit(at, text string) {
	m.f.t.Helper()
	first, _, _ := strings.Cut(text, "\n")
	name, ok := strings.CutPrefix(first, "# ~/")
	if !ok {
		m.f.t.Fatalf("%s: a unit begins with the name of its file", at)
	}
	file := filepath.Join(m.home, name)
	m.write(at, file, text)
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		m.f.t.Logf("%s: systemd does not check the unit: %v", at, err)
		return
	}
	if out := m.must(at, "systemd-analyze --user verify "+file); strings.Contains(out, filepath.Base(file)) {
		m.f.t.Errorf("%s: systemd says: %s", at, out)
	}
}

var treeLine = regexp.MustCompile(`^([│ ]*)[├└]── (\S+) +(0\d{3})`)

// tree compares files and their modes with those that a page draws.
func (m *machine) tree(at, text string) {
	m.f.t.Helper()
	lines := strings.Split(text, "\n")
	head := strings.Fields(lines[0])
	root := filepath.Join(m.home, strings.TrimPrefix(head[0], "~/"))
	want, path := []string{". " + head[1]}, []string(nil)
	for _, line := range lines[1:] {
		p := treeLine.FindStringSubmatch(line)
		if p == nil {
			m.f.t.Fatalf("%s: %q is no line of a tree", at, line)
		}
		path = append(path[:len([]rune(p[1]))/4], p[2])
		want = append(want, filepath.Join(path...)+" "+p[3])
	}
	var got []string
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		got = append(got, fmt.Sprintf("%s %04o", rel, info.Mode().Perm()))
		return err
	})
	slices.Sort(got)
	slices.Sort(want)
	if err != nil || !slices.Equal(got, want) {
		m.f.t.Errorf("%s: got %q, %v, the page has %q", at, got, err, want)
	}
}

var codeReference = regexp.MustCompile("`([a-z/]+\\.go):([A-Z]\\w+)`")

// What a page says where to begin reading is there.
func TestPagesNameCodeThatExists(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(checkout, "docs/security.md"))
	if err != nil {
		t.Fatal(err)
	}
	list := codeReference.FindAllStringSubmatch(string(text), -1)
	if len(list) < 4 {
		t.Fatalf("found %q: the page or this test is wrong", list)
	}
	for _, r := range list {
		code, err := os.ReadFile(filepath.Join(checkout, r[1]))
		if err != nil || !regexp.MustCompile(`(?m)^func (\([^)]*\) )?`+r[2]+`\(`).Match(code) {
			t.Errorf("docs/security.md names %s:%s: it is not there (%v)", r[1], r[2], err)
		}
	}
}
