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
		default:
			list = append(list, sectionProblems(r, check)...)
		}
	}
	// What is not in use is no mistake, whatever it is; but a section that the
	// plugin would refuse is one before somebody swaps to it.
	for _, r := range g.Unselected() {
		if check := l.src.Bundled[string(r.Kind)+"-"+r.Use]; check != nil {
			list = append(list, sectionProblems(r, check)...)
		}
	}
	return list
}

// sectionProblems is what a plugin finds wrong with its section.
func sectionProblems(r genome.PluginRef, check func(map[string]any) []genome.Problem) []genome.Problem {
	if r.Config == nil {
		return nil
	}
	list := check(r.Config)
	for i := range list {
		list[i].Key = append([]string{"plugins", r.Key()}, list[i].Key...)
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
