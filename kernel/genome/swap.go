package genome

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cellkernel/cellkernel/sdk"
)

// Swap returns a genome in which the plugin to, a bundled name or a path, has
// taken the place of from, which is one of golgi's: "discovery-multicast", or
// "multicast" where only one plugin is called that. It is not validated.
func (g *Genome) Swap(from, to string) (*Genome, error) {
	kind, name, err := g.pluginOf(from)
	if err != nil {
		return nil, err
	}
	if isPath := strings.ContainsRune(to, filepath.Separator); !isPath {
		other, bare, ok := strings.Cut(to, "-")
		if ok && sdk.Kind(other) != kind {
			if _, err := sdk.ParseKind(other); err == nil {
				return nil, sdk.Errorf(sdk.CodeInvalid, "swap %q for %q: want a plugin of kind %s", from, to, kind)
			}
		} else if ok {
			to = bare
		}
	}
	next := *g
	replace := func(list []string) []string {
		list = slices.Clone(list)
		for i, entry := range list {
			if PluginName(kind, entry) == name {
				list[i] = to
			}
		}
		return list
	}
	switch kind {
	case sdk.KindDiscovery:
		next.Golgi.Discovery = replace(g.Golgi.Discovery)
	case sdk.KindTransport:
		if PluginName(kind, to) != name || name == "uds" {
			return nil, sdk.Errorf(sdk.CodeInvalid, "swap %q for %q: a transport can be exchanged for another version of itself only: addresses begin with its name", from, to)
		}
		next.Golgi.Transports = replace(g.Golgi.Transports)
	case sdk.KindLedger, sdk.KindBilling:
		if PluginName(kind, to) != name {
			return nil, sdk.Errorf(sdk.CodeInvalid, "swap %q for %q: a %s can be exchanged for another version of itself only: it goes on with what that has", from, to, kind)
		}
		entry := &next.Golgi.Ledger
		if kind == sdk.KindBilling {
			entry = &next.Golgi.Billing
		}
		*entry = to
	}
	if key := string(kind) + "-" + name; PluginName(kind, to) == name && g.Plugins[key].Use != "" {
		next.Plugins = maps.Clone(g.Plugins)
		section := next.Plugins[key]
		section.Use, section.SHA256 = "", ""
		next.Plugins[key] = section
	}
	return &next, nil
}

// pluginOf finds a plugin of golgi by "discovery-multicast" or "multicast".
func (g *Genome) pluginOf(name string) (sdk.Kind, string, error) {
	var found []PluginRef
	for _, r := range g.Selected() {
		if r.Key() == name || r.Instance == name {
			found = append(found, r)
		}
	}
	switch len(found) {
	case 0:
		return "", "", sdk.Errorf(sdk.CodeNotFound, "find plugin %q: golgi has none of that name", name)
	case 1:
		return found[0].Kind, found[0].Instance, nil
	}
	return "", "", sdk.Errorf(sdk.CodeInvalid, "find plugin %q: there are two: say %s or %s", name, found[0].Key(), found[1].Key())
}

// PluginsUnlike says in which plugins g differs from file: nothing, if both
// select the same programs. What is only in g stands for what is only in file,
// one by one, as after [Genome.Swap].
func (g *Genome) PluginsUnlike(file *Genome) []string {
	now, then := g.Selected(), file.Selected()
	var lines []string
	for _, kind := range sdk.Kinds() {
		gone := lacking(then, now, kind)
		for _, r := range lacking(now, then, kind) {
			if len(gone) == 0 {
				lines = append(lines, fmt.Sprintf("plugin %s runs", r.program()))
				continue
			}
			lines = append(lines, fmt.Sprintf("plugin %s runs in the place of %s", r.program(), gone[0].program()))
			gone = gone[1:]
		}
		for _, r := range gone {
			lines = append(lines, fmt.Sprintf("plugin %s does not run", r.program()))
		}
	}
	return lines
}

// lacking lists the plugins of a kind that others has not, or as another program.
func lacking(refs, others []PluginRef, kind sdk.Kind) []PluginRef {
	return slices.DeleteFunc(slices.Clone(refs), func(r PluginRef) bool {
		return r.Kind != kind || slices.ContainsFunc(others, func(o PluginRef) bool {
			return o.Key() == r.Key() && o.Use == r.Use && o.SHA256 == r.SHA256
		})
	})
}

// program names a plugin, and the program where its key does not say it.
func (r PluginRef) program() string {
	if r.Use == r.Instance {
		return r.Key()
	}
	return fmt.Sprintf("%s (%s)", r.Key(), r.Use)
}
