// Package config reads genome.toml and everything that may change it into a
// [genome.Genome]: defaults, then the file with its workspace members, then
// overlays, then variables CELLKERNEL_SECTION__KEY, then --set key=value;
// later ones win, tables merge, arrays replace. It reports all errors of a
// run at once, each with its place. koanf is used here and nowhere else.
package config

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"

	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/sdk"
)

// Bounds of one run.
const (
	maxMembers  = 256
	maxOverlays = 64
	maxSettings = 256  // variables and --set together
	maxRecorded = 1000 // errors
)

// Sources says where configuration comes from.
type Sources struct {
	File     string   // genome.toml or the directory that holds it; empty: "."
	Overlays []string // paths of overlay files
	Environ  []string // NAME=value, as of os.Environ; only CELLKERNEL_* is looked at
	Sets     []string // values of --set: key=value
	// Bundled are the plugins that need no path, by "kind-name", each with what
	// it finds wrong with its section, keys below that; nil: nobody knows them,
	// and nothing is said about plugins.
	Bundled map[string]func(section map[string]any) []genome.Problem
}

// Load reads everything src names. The error, if any, is of type [Errors].
// The genome is valid; nothing was started and no file was changed.
func Load(src Sources) (*genome.Genome, *Origins, error) {
	l := &loader{src: src, tainted: map[string]bool{}, described: map[string]description{}}
	if err := l.open(); err != nil {
		return nil, nil, Errors{*err}
	}
	l.overlays()
	l.members()
	l.settings()
	for _, ly := range l.layers {
		l.check(ly)
	}
	g, origins := l.merge()
	if !l.incomplete {
		l.validate(g, origins)
	}
	if len(l.errs) > 0 {
		return nil, nil, l.errs.sorted()
	}
	return g, origins, nil
}

// loader is one run of Load.
type loader struct {
	src    Sources
	root   *layer
	layers []*layer // in the order of precedence, lowest first

	described  map[string]description // cell to the file that describes it first
	errs       Errors
	tainted    map[string]bool // keys with an error: nothing else is said about them
	incomplete bool            // a part is missing: references can not be judged
}

// description is where a cell was described first.
type description struct {
	layer *layer
	at    span
}

// open reads the root file.
func (l *loader) open() *Error {
	name := l.src.File
	if name == "" {
		name = "."
	}
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		name = filepath.Join(name, "genome.toml")
	}
	ly, err := l.read(name, originFile)
	if err != nil {
		return err
	}
	l.root = ly
	l.arrange(ly, "")
	l.describe(ly)
	return nil
}

func (l *loader) overlays() {
	if len(l.src.Overlays) > maxOverlays {
		l.errs = append(l.errs, Error{File: "--overlay", Message: "too many files"})
		return
	}
	for _, name := range l.src.Overlays {
		ly, err := l.read(name, originOverlay)
		if err != nil {
			l.errs = append(l.errs, *err)
			l.incomplete = true
			continue
		}
		l.arrange(ly, l.root.own)
		for _, cell := range ly.cells() {
			if _, ok := l.described[cell]; !ok {
				l.described[cell] = description{ly, ly.find([]string{"cells", cell}).key}
			}
		}
	}
}

// members reads the directories of [workspace]. They rank with the root file,
// below the overlays.
func (l *loader) members() {
	var from *layer
	var list []any
	for _, ly := range l.layers {
		w, _ := ly.tree["workspace"].(map[string]any)
		if a, ok := w["members"].([]any); ok {
			from, list = ly, a
		}
	}
	key := []string{"workspace", "members"}
	if len(list) > maxMembers {
		l.reportf(from, key, "at most %d members, got %d", maxMembers, len(list))
		list, l.incomplete = nil, true
	}
	overlays := slices.Clone(l.layers[1:])
	l.layers = l.layers[:1]
	seen := map[string]string{realPath(l.root.dir): "the root"}
	for _, m := range list {
		if dir, ok := m.(string); ok {
			l.member(from, key, dir, seen)
		}
	}
	l.layers = append(l.layers, overlays...)
	for i, ly := range l.layers {
		ly.rank = i
	}
}

// member reads one member directory; from and key say who asked for it.
func (l *loader) member(from *layer, key []string, dir string, seen map[string]string) {
	name := dir
	if rel, err := filepath.Rel(l.root.dir, dir); err == nil {
		name = filepath.Join(filepath.Dir(l.root.name), rel)
	}
	if other, ok := seen[realPath(dir)]; ok {
		l.reportf(from, key, "%s is a member already, as %s", name, other)
		return
	}
	seen[realPath(dir)] = name
	ly, err := l.read(filepath.Join(name, "genome.toml"), originFile)
	switch {
	case err != nil && err.Line == 0:
		l.reportf(from, key, "%s", err.Error())
	case err != nil:
		l.errs = append(l.errs, *err)
	}
	if err != nil {
		l.incomplete = true
		return
	}
	l.arrangeMember(ly)
	l.describe(ly)
}

// realPath resolves symbolic links as far as that is possible.
func realPath(dir string) string {
	if p, err := filepath.EvalSymlinks(dir); err == nil {
		return p
	}
	return filepath.Clean(dir)
}

// check decodes one layer alone, for its errors.
func (l *loader) check(ly *layer) {
	d := decoder{left: maxRecorded, report: func(path []string, unknown bool, message, hint string) {
		p := ly.find(path)
		at := p.value
		if unknown {
			at = p.key
			if hint != "" {
				l.tainted[keyText(extend(path[:len(path)-1], hint))] = true
			}
		}
		l.report(ly, at, path, message, hint)
	}}
	d.genome(ly.tree, genome.Default())
}

func (l *loader) reportf(ly *layer, path []string, format string, args ...any) {
	l.report(ly, ly.find(path).value, path, sprintf(format, args...), "")
}

func (l *loader) report(ly *layer, at span, path []string, message, hint string) {
	l.tainted[keyText(path)] = true
	if len(l.errs) >= maxRecorded {
		return
	}
	l.errs = append(l.errs, placed(ly, at, path, message, hint))
}

// placed is an error at a place of a layer.
func placed(ly *layer, at span, path []string, message, hint string) Error {
	if len(path) > 1 && path[1] == unnamed {
		path = append([]string{"genome"}, path[2:]...)
	}
	e := Error{File: ly.name, Key: keyText(path), Message: message, Suggestion: hint, layer: ly.rank}
	e.place(at, ly.line(at.line))
	return e
}

// merge puts the layers over each other and fills in what depends on files.
func (l *loader) merge() (*genome.Genome, *Origins) {
	g := genome.Default()
	// What is wrong was reported layer by layer.
	d := decoder{left: maxRecorded, report: func([]string, bool, string, string) {}}
	d.genome(l.merged(), g)
	g.File = l.root.file
	if g.Kernel.Node == "" {
		g.Kernel.Node = DefaultNode(l.root.dir)
	}
	origins := originsOf(l.layers)
	for name, c := range g.Cells {
		at, ok := l.described[string(name)]
		if !ok { // only a file can make a cell; reported where it was tried
			delete(g.Cells, name)
			continue
		}
		c.Name, c.File = name, at.layer.file
		if c.Dir == "" {
			c.Dir = at.layer.dir
		}
		if !origins.has([]string{"cells", string(name), "restart"}) {
			c.Restart = genome.DefaultRestart(c.Job)
		}
	}
	origins.genome = g
	return g, origins
}

// merged returns the tree of all layers.
func (l *loader) merged() map[string]any {
	k := koanf.New(delimiter)
	for _, ly := range l.layers {
		// A map in memory can be read and merged without error.
		_ = k.Load(confmap.Provider(ly.tree, ""), nil)
	}
	return k.Raw()
}

// delimiter can not occur in a key: control characters are refused.
const delimiter = "\x00"

// validate reports what the genome finds wrong with itself, at the places
// where the values were written.
func (l *loader) validate(g *genome.Genome, origins *Origins) {
	l.checkDirs(g, origins)
	problems := slices.DeleteFunc(append(g.Validate(), l.pluginProblems(g)...), l.explained)
	for _, p := range problems {
		ly, at := origins.find(p.Key)
		if ly == nil {
			ly = l.root
		}
		if p.Name {
			at = ly.find(p.Key).key
		}
		l.report(ly, at, p.Key, p.Text, p.Hint)
	}
}

// explained reports whether an error that is known already is the reason for p.
func (l *loader) explained(p genome.Problem) bool {
	keys := []string{keyText(p.Key)}
	for _, also := range p.Also {
		keys = append(keys, keyText(extend(p.Key[:len(p.Key)-1], also)))
	}
	for _, k := range keys {
		for t := range l.tainted {
			if t == k || strings.HasPrefix(k, t+".") || strings.HasPrefix(t, k+".") {
				return true
			}
		}
	}
	return false
}

// checkDirs reports directories that do not exist.
func (l *loader) checkDirs(g *genome.Genome, origins *Origins) {
	for _, name := range slices.Sorted(maps.Keys(g.Cells)) {
		c := g.Cells[name]
		for key, dir := range map[string]string{"dir": c.Dir, "package": c.Package} {
			path := []string{"cells", string(name), key}
			if dir == "" || l.tainted[keyText(path)] {
				continue
			}
			ly, at := origins.find(path)
			if ly == nil {
				ly = l.root
			}
			if message, hint := dirProblem(key, dir, c.Dir); message != "" {
				l.report(ly, at, path, message, hint)
			}
		}
	}
}

// dirProblem says what is wrong with a directory or an import path.
func dirProblem(key, dir, base string) (message, hint string) {
	if filepath.IsAbs(dir) {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return sprintf("no directory %s", dir), ""
		}
		return "", ""
	}
	first, _, _ := strings.Cut(dir, "/")
	if info, err := os.Stat(filepath.Join(base, dir)); key == "package" && err == nil && info.IsDir() && !strings.Contains(first, ".") {
		return "a directory begins with \"./\"", "./" + dir
	}
	return "", ""
}

// DefaultNode is what a node in a directory is called if nothing names it: the
// host name and the directory's, in the grammar of names.
func DefaultNode(dir string) string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "node"
	}
	host, _, _ = strings.Cut(host, ".")
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return '-'
	}, host+"-"+filepath.Base(dir))
	name = strings.Trim(name[:min(len(name), sdk.MaxCellName)], "-")
	if name == "" {
		return "node"
	}
	return name
}
