package kernel_test

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/scanner"
	"go/token"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// The limits of size.
const (
	maxFunction = 60   // lines
	maxFile     = 450  // lines
	maxParams   = 5    // of a function
	maxPackage  = 3000 // lines of code of a package of the kernel, without comments: docs/decisions/0005
)

// ours are the sources that people wrote and that are not tests.
func ours(t *testing.T) []source {
	t.Helper()
	return slices.DeleteFunc(sources(t), func(s source) bool { return s.isTest() || s.generated() })
}

func TestSizes(t *testing.T) {
	for _, s := range ours(t) {
		if n := bytes.Count(s.text, []byte("\n")); n > maxFile {
			t.Errorf("%s: %d lines: at most %d", s.path, n, maxFile)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := s.line(f.End()) - s.line(f.Pos()) + 1; n > maxFunction {
				t.Errorf("%s:%d: %s has %d lines: at most %d", s.path, s.line(f.Pos()), f.Name.Name, n, maxFunction)
			}
			if n := f.Type.Params.NumFields(); n > maxParams {
				t.Errorf("%s:%d: %s has %d parameters: at most %d", s.path, s.line(f.Pos()), f.Name.Name, n, maxParams)
			}
		}
	}
}

// codeLines counts the lines that have code on them.
func codeLines(s source) int {
	var sc scanner.Scanner
	fset := token.NewFileSet()
	file := fset.AddFile(s.path, -1, len(s.text))
	sc.Init(file, s.text, nil, 0)
	lines := map[int]bool{}
	for {
		pos, tok, lit := sc.Scan()
		switch {
		case tok == token.EOF:
			return len(lines)
		case tok == token.SEMICOLON && lit == "\n":
		default:
			first := fset.Position(pos).Line
			for i := range strings.Count(lit, "\n") + 1 {
				lines[first+i] = true
			}
		}
	}
}

func TestTheKernelStaysSmall(t *testing.T) {
	lines := map[string]int{}
	total := 0
	for _, s := range ours(t) {
		if s.dir == "kernel" || strings.HasPrefix(s.dir, "kernel/") {
			lines[s.dir] += codeLines(s)
			total += codeLines(s)
		}
	}
	for dir, n := range lines {
		t.Logf("%-20s %d", dir, n)
		if n > maxPackage {
			t.Errorf("%s has %d lines of code: at most %d", dir, n, maxPackage)
		}
	}
	t.Logf("%-20s %d", "all", total)
}

func TestFormat(t *testing.T) {
	for _, s := range sources(t) {
		if out, err := format.Source(s.text); err != nil || !bytes.Equal(out, s.text) {
			t.Errorf("%s: not formatted: %v", s.path, err)
		}
	}
}

func TestExportsAreDocumented(t *testing.T) {
	packages := map[string]bool{}
	for _, s := range ours(t) {
		if s.dir == "cmd/cellkernel/internal/gen/gentest" {
			continue // it exists for the tests beside it
		}
		packages[s.dir] = packages[s.dir] || s.file.Doc != nil
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && exportedReceiver(d) {
					checkDoc(t, s, d.Name, d.Doc)
				}
			case *ast.GenDecl:
				checkSpecs(t, s, d)
			}
		}
	}
	for dir, ok := range packages {
		if !ok {
			t.Errorf("%s: the package has no comment", dir)
		}
	}
}

func exportedReceiver(f *ast.FuncDecl) bool {
	if f.Recv == nil {
		return true
	}
	typ := f.Recv.List[0].Type
	for {
		switch x := typ.(type) {
		case *ast.StarExpr:
			typ = x.X
		case *ast.IndexExpr:
			typ = x.X
		case *ast.IndexListExpr:
			typ = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return false
		}
	}
}

// checkSpecs looks at types, constants and variables. In a group a comment on
// the group or at the end of a line will do.
func checkSpecs(t *testing.T, s source, d *ast.GenDecl) {
	t.Helper()
	for _, spec := range d.Specs {
		switch x := spec.(type) {
		case *ast.TypeSpec:
			doc := x.Doc
			if doc == nil && len(d.Specs) == 1 {
				doc = d.Doc
			}
			if x.Name.IsExported() {
				checkDoc(t, s, x.Name, doc)
			}
		case *ast.ValueSpec:
			for _, name := range x.Names {
				if name.IsExported() && d.Doc == nil && x.Doc == nil && x.Comment == nil {
					t.Errorf("%s:%d: %s has no comment", s.path, s.line(name.Pos()), name.Name)
				}
			}
		}
	}
}

// checkDoc wants a comment that begins with the name, an article allowed.
func checkDoc(t *testing.T, s source, name *ast.Ident, doc *ast.CommentGroup) {
	t.Helper()
	text := doc.Text()
	for _, article := range []string{"A ", "An ", "The "} {
		text = strings.TrimPrefix(text, article)
	}
	rest, ok := strings.CutPrefix(text, name.Name)
	if !ok || rest != "" && unicode.IsLetter(rune(rest[0])) {
		t.Errorf("%s:%d: the comment of %s does not begin with its name", s.path, s.line(name.Pos()), name.Name)
	}
}

// foreign are words of biology that have a standard name: docs/glossary.md.
var foreign = []string{
	"nucleus", "nuclei", "mitochondria", "mitochondrion", "mitosis", "meiosis", "pheromone", "pheromones", "receptor", "receptors", "ribosome",
	"organelle", "organism", "cytoplasm", "cytoskeleton", "chromosome", "dna", "rna", "mrna", "enzyme", "protein", "neuron", "neurons", "dendrite",
	"neurotransmitter", "hormone", "tissue", "lysosome", "peroxisome", "apoptosis", "endocytosis", "exocytosis", "phenotype", "mutation", "chloroplast", "flagellum",
}

var wordParts = regexp.MustCompile(`[A-Z]+(?:[a-z]+)?|[a-z]+`)

func TestWordsInIdentifiers(t *testing.T) {
	for _, s := range sources(t) {
		ast.Inspect(s.file, func(n ast.Node) bool {
			id, ok := n.(*ast.Ident)
			if !ok {
				return true
			}
			for _, part := range wordParts.FindAllString(id.Name, -1) {
				if slices.Contains(foreign, strings.ToLower(part)) {
					t.Errorf("%s:%d: identifier %s: %q has a standard name: see the glossary", s.path, s.line(id.Pos()), id.Name, part)
				}
			}
			return true
		})
	}
}

func TestHabits(t *testing.T) {
	todo := regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b|//\s*nolint`)
	for _, s := range ours(t) {
		for _, group := range s.file.Comments {
			for _, c := range group.List {
				if word := todo.FindString(c.Text); word != "" {
					t.Errorf("%s:%d: a comment says %s", s.path, s.line(c.Pos()), word)
				}
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch x := n.(type) {
			case *ast.FuncDecl:
				if x.Recv == nil && x.Name.Name == "init" {
					t.Errorf("%s:%d: init", s.path, s.line(x.Pos()))
				}
			case *ast.BasicLit:
				if x.Kind == token.STRING && strings.Contains(strings.ToLower(x.Value), "failed to") {
					t.Errorf("%s:%d: %s: say verb, object, cause", s.path, s.line(x.Pos()), x.Value)
				}
			case *ast.CallExpr:
				if sel, ok := x.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sleep" && !strings.HasPrefix(s.dir, "examples/") {
					if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "time" {
						t.Errorf("%s:%d: a sleep: wait for an event or a timer", s.path, s.line(x.Pos()))
					}
				}
			}
			return true
		})
	}
}
