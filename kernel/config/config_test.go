package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/kernel/config"
)

// TestMistakes loads each file of testdata and compares the errors with the
// lines "# want:" at its top.
func TestMistakes(t *testing.T) {
	files, err := filepath.Glob("testdata/*.toml")
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := filepath.Glob("testdata/*/genome.toml")
	if err != nil || len(files) == 0 || len(dirs) == 0 {
		t.Fatalf("testdata: %d files, %d directories, %v", len(files), len(dirs), err)
	}
	t.Chdir("testdata")
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(files, dirs...) {
		name := strings.TrimPrefix(f, "testdata/")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for line := range strings.Lines(string(text)) {
				if w, ok := strings.CutPrefix(line, "# want: "); ok {
					want = append(want, strings.TrimSpace(strings.ReplaceAll(w, "DIR", here)))
				}
			}
			_, _, err = config.Load(config.Sources{File: name})
			var errs config.Errors
			if !errors.As(err, &errs) {
				t.Fatalf("Load: got %v, want Errors", err)
			}
			if got := errs.Error(); got != strings.Join(want, "\n") {
				t.Errorf("got:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
			}
		})
	}
}
