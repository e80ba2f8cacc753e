package scaffold_test

import (
	"bytes"
	"go/format"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/internal/scaffold"
)

// What is copied is formatted, whatever the module is called: the order of the
// imports depends on it.
func TestCopiesAreFormatted(t *testing.T) {
	template := fstest.MapFS{"greeter/main.go": {Data: []byte(`package main

import (
	"context"

	"TEMPLATE/hello"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

var _, _ = hello.Hello, cell.Main

func main() { context.Background() }
`)}}
	for _, module := range []string{"a", "shop", "example.com/x", "github.com/zz/z"} {
		dir := t.TempDir()
		names, err := scaffold.Copy(dir, template, "TEMPLATE", module)
		if err != nil {
			t.Fatal(err)
		}
		imported := false
		for _, name := range names {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if filepath.Ext(name) != ".go" {
				continue
			}
			imported = imported || strings.Contains(string(text), `"`+module+"/")
			if want, err := format.Source(text); err != nil || !bytes.Equal(text, want) {
				t.Errorf("module %q: %s is not formatted: %v", module, name, err)
			}
		}
		if !imported {
			t.Errorf("module %q: nothing imports it: %q", module, names)
		}
	}
}

func TestModulePathsAreImportable(t *testing.T) {
	for name, want := range map[string]string{
		"shop": "shop", "Käse": "K-se", "go": "cells", "...": "cells", "net": "example.com/net", "mod": "example.com/mod", "log": "example.com/log",
	} {
		m, err := scaffold.FindModule(filepath.Join(t.TempDir(), name), "")
		if err != nil {
			t.Fatal(err)
		}
		if m.Path != want || !m.New {
			t.Errorf("directory %q: module %q, want %q", name, m.Path, want)
		}
	}
}
