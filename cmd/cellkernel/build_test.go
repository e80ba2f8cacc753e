package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/kernel/genome"
)

func TestStaleCodeIsGeneratedBeforeItIsBuilt(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs")
	}
	dir := filepath.Join(t.TempDir(), "shop")
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOFLAGS", "-mod=mod")
	var discard strings.Builder
	if err := newApp(nil, &discard, &discard).initDir(t.Context(), dir, initFlags{sdk: root}); err != nil {
		t.Fatal(err)
	}
	generated := filepath.Join(dir, "hello", "greeter_cell.go")
	if err := os.Remove(generated); err != nil {
		t.Fatal(err)
	}
	c := genome.DefaultCell()
	c.Name, c.Dir, c.Package = "greeter", dir, filepath.Join(dir, "greeter")
	var said []string
	command := genome.DefaultCell() // has nothing to build
	command.Name, command.Command = "store", []string{"true"}
	paths, err := buildCells(t.Context(), []*genome.Cell{c, command}, t.TempDir(), func(s string) { said = append(said, s) })
	if err != nil || len(paths) != 1 || len(said) == 0 {
		t.Fatalf("got %v, said %q, %v", paths, said, err)
	}
	for _, file := range []string{generated, paths["greeter"]} {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
}
