package kernel_test

import (
	"go/ast"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"testing"
)

var (
	codeSpan    = regexp.MustCompile("`([^`\n]+)`")
	goReference = regexp.MustCompile(`^([\w./-]+/[\w.-]+\.go)(?::(\w+))?$`)
	ourPath     = regexp.MustCompile(`^(?:kernel|sdk|plugins|cmd|examples|docs)/[\w./-]*[\w]$`)
	link        = regexp.MustCompile(`\]\(([^)#:\s]+)(?:#[^)]*)?\)`)
	fence       = regexp.MustCompile("(?ms)^```.*?^```")
)

// pages are the Markdown files of the repository that speak of its code.
func pages(t *testing.T) []string {
	t.Helper()
	var list []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/decisions/*.md", "plugins/*/*.md", "examples/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pattern)))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, found...)
	}
	if len(list) < 5 {
		t.Fatalf("only %d pages", len(list))
	}
	return list
}

// declared lists what each file declares at its top level, methods included.
func declared(t *testing.T) map[string]map[string]bool {
	t.Helper()
	m := map[string]map[string]bool{}
	for _, s := range sources(t) {
		names := map[string]bool{}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				names[d.Name.Name] = true
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch x := spec.(type) {
					case *ast.TypeSpec:
						names[x.Name.Name] = true
					case *ast.ValueSpec:
						for _, n := range x.Names {
							names[n.Name] = true
						}
					}
				}
			}
		}
		m[s.path] = names
	}
	return m
}

func TestCodeThatPagesNameExists(t *testing.T) {
	files := declared(t)
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, span := range codeSpan.FindAllStringSubmatch(fence.ReplaceAllString(string(text), ""), -1) {
			ref := goReference.FindStringSubmatch(span[1])
			var names map[string]bool
			if ref != nil {
				names = files[ref[1]]
				if beside, err := filepath.Rel(root, filepath.Join(filepath.Dir(page), ref[1])); names == nil && err == nil {
					names = files[filepath.ToSlash(beside)]
				}
			}
			switch {
			case ref != nil && names == nil:
				t.Errorf("%s: there is no %s", page, ref[1])
			case ref != nil && ref[2] != "" && !names[ref[2]]:
				t.Errorf("%s: %s declares no %s", page, ref[1], ref[2])
			case ref == nil && ourPath.MatchString(span[1]):
				if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(span[1]))); err != nil {
					t.Errorf("%s: there is no %s", page, span[1])
				}
			}
		}
	}
}

func TestLinksBetweenPages(t *testing.T) {
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range link.FindAllStringSubmatch(fence.ReplaceAllString(string(text), ""), -1) {
			target := path.Join(filepath.ToSlash(filepath.Dir(page)), l[1])
			if _, err := os.Stat(filepath.FromSlash(target)); err != nil {
				t.Errorf("%s: link to %s leads nowhere", page, l[1])
			}
		}
	}
}
