package config

import (
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/sdk"
)

// pluginProblems says which plugins that golgi asks for there are not, and
// what the bundled ones find wrong with their sections.
func (l *loader) pluginProblems(g *genome.Genome) []genome.Problem {
	if l.src.Bundled == nil {
		return nil
	}
	var list []genome.Problem
	for _, r := range g.Selected() {
		section := []string{"plugins", r.Key()}
		key := genome.GolgiKey(r.Kind)
		if g.Plugins[r.Key()].Use != "" {
			key = extend(section, "use")
		}
		check, bundled := l.src.Bundled[string(r.Kind)+"-"+r.Use]
		switch {
		case hasSlash(r.Use):
			if info, err := os.Stat(r.Use); err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
				list = append(list, genome.Problem{Key: key, Text: sprintf("no executable %s", r.Use)})
			}
		case !bundled:
			names := l.bundledNames(r.Kind)
			list = append(list, genome.Problem{Key: key, Hint: genome.Nearest(r.Use, names),
				Text: sprintf("no %s %.80q: want %s or the path of an executable", r.Kind, r.Use, strings.Join(names, ", "))})
		case r.Config != nil:
			for _, p := range check(r.Config) {
				p.Key = append(slices.Clone(section), p.Key...)
				list = append(list, p)
			}
		}
	}
	return list
}

// bundledNames lists the bundled plugins of a kind.
func (l *loader) bundledNames(kind sdk.Kind) []string {
	var names []string
	for _, full := range slices.Sorted(maps.Keys(l.src.Bundled)) {
		if name, ok := strings.CutPrefix(full, string(kind)+"-"); ok {
			names = append(names, name)
		}
	}
	return names
}
