package kernel_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A source is a Go file of the repository.
type source struct {
	path string // relative to the repository's root, with slashes
	dir  string
	text []byte
	file *ast.File
	fset *token.FileSet
}

func (s source) isTest() bool { return strings.HasSuffix(s.path, "_test.go") }

func (s source) generated() bool { return ast.IsGenerated(s.file) }

// line returns where a node begins.
func (s source) line(p token.Pos) int { return s.fset.Position(p).Line }

const root = ".."

// skipped are directories whose Go files are data, or not ours.
var skipped = []string{".git", ".cell", "testdata", "node_modules"}

// sources parses all Go files of the repository.
func sources(t *testing.T) []source {
	t.Helper()
	var list []source
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains(skipped, d.Name()) {
			return fs.SkipDir
		}
		if d.IsDir() || filepath.Ext(path) != ".go" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(fset, path, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		list = append(list, source{rel, filepath.ToSlash(filepath.Dir(rel)), text, file, fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}
