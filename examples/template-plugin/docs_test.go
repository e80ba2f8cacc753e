package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/sdk/plugin/plugintest"
)

const guide = "../../docs/plugins.md"

// block returns the code block that follows a marker in the guide.
func block(t *testing.T, marker string) string {
	t.Helper()
	b, err := os.ReadFile(guide)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok1 := strings.Cut(string(b), "<!-- "+marker+" -->\n```go\n")
	code, _, ok2 := strings.Cut(rest, "```\n")
	if !ok1 || !ok2 {
		t.Fatalf("%s has no block %q", guide, marker)
	}
	return code
}

// The plugin of the guide compiles, is as short as it says, and keeps the
// contract of its kind.
func TestSmallestPlugin(t *testing.T) {
	code := block(t, "smallest")
	if n := strings.Count(code, "\n"); n > 25 {
		t.Errorf("the smallest plugin has %d lines", n)
	}
	dir := t.TempDir()
	source, bin, overlay := filepath.Join(dir, "main.go"), filepath.Join(dir, "plugin"), filepath.Join(dir, "overlay.json")
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	// It is built as if it were a package of this module.
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(here, "smallest", "main.go"): source}})
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{source: []byte(code), overlay: replace} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("go", "build", "-overlay", overlay, "-o", bin, "./smallest").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	plugintest.Test(t, plugintest.Command(bin), plugintest.Options{Alone: true})
	out, err := exec.Command(bin).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "cellkernel plugin test "+bin) {
		t.Errorf("run by hand it says %q, %v: want what to do", out, err)
	}
}

// The pieces of the template that the guide shows are those of the template.
func TestGuideShowsTheTemplate(t *testing.T) {
	for marker, path := range map[string]string{"config": "tcptransport/config.go", "transport": "tcptransport/tcptransport.go", "test": "tcptransport/tcptransport_test.go"} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for piece := range strings.SplitSeq(block(t, marker), "\n\n") {
			if !strings.Contains(string(b), strings.TrimSpace(piece)) {
				t.Errorf("%s: not in %s:\n%s", marker, path, piece)
			}
		}
	}
}
