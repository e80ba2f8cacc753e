package config_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/kernel/config"
)

func manual(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/genome.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestManualDefaults compares the tables of docs/genome.md with the code, in
// both directions: keys, types and defaults.
func TestManualDefaults(t *testing.T) {
	written := map[string][2]string{}
	row := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]+) \\| ([^|]+) \\| [^|]+ \\|$")
	for _, m := range row.FindAllStringSubmatch(manual(t), -1) {
		if _, ok := written[m[1]]; ok {
			t.Errorf("docs/genome.md: %s is there twice", m[1])
		}
		written[m[1]] = [2]string{m[2], m[3]}
	}
	for _, k := range config.Keys() {
		want := "`" + k.Default + "`"
		switch {
		case k.Default == "":
			want = "–"
		case strings.HasPrefix(k.Default, "("):
			want = strings.Trim(k.Default, "()")
		}
		got, ok := written[k.Key]
		switch {
		case !ok:
			t.Errorf("docs/genome.md: no row for %s", k.Key)
		case got != [2]string{k.Type, want}:
			t.Errorf("docs/genome.md: %s: %q, want type %q and default %q", k.Key, got, k.Type, want)
		}
		delete(written, k.Key)
	}
	for key := range written {
		t.Errorf("docs/genome.md: %s is no key", key)
	}
}

// TestManualExamples loads the examples of docs/genome.md. Blocks that follow
// each other within a section are the files of one directory.
func TestManualExamples(t *testing.T) {
	block := regexp.MustCompile("(?s)```toml\n# (\\S+)\n(.*?)```")
	loaded := 0
	for _, section := range strings.Split(manual(t), "\n## ")[1:] {
		title, _, _ := strings.Cut(section, "\n")
		var trees []map[string]string
		for _, m := range block.FindAllStringSubmatch(section, -1) {
			if m[1] == "genome.toml" {
				trees = append(trees, map[string]string{})
			}
			trees[len(trees)-1][m[1]] = m[2]
		}
		for _, tree := range trees {
			src := config.Sources{File: files(t, tree)}
			if _, ok := tree["overlay.toml"]; ok {
				src.Overlays = []string{filepath.Join(src.File, "overlay.toml")}
			}
			if _, _, err := config.Load(src); err != nil {
				t.Errorf("%s: %v", title, err)
			}
			loaded++
		}
	}
	if blocks := strings.Count(manual(t), "```toml\n"); loaded == 0 || blocks != len(block.FindAllString(manual(t), -1)) {
		t.Errorf("%d blocks, %d genomes: each block begins with \"# FILE\"", blocks, loaded)
	}
}
