package genome

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cellkernel/cellkernel/sdk"
)

// A PluginRef is a plugin that golgi asks for, with its section.
type PluginRef struct {
	Kind     sdk.Kind
	Instance string // the word after the kind: "office" of [plugins.discovery-office]
	Use      string // a bundled name or an absolute path
	SHA256   string
	Limits   Limits
	Config   map[string]any // nil if it has no section
}

// Key returns the name of the plugin's section and of its log:
// "discovery-office".
func (r PluginRef) Key() string { return string(r.Kind) + "-" + r.Instance }

// Name returns what the plugin calls itself, by convention: the bundled name,
// or the last element of the path without "<kind>-". Of a transport it is the
// scheme of its addresses.
func (r PluginRef) Name() string { return PluginName(r.Kind, r.Use) }

// Selected returns the plugins of golgi.*, transports in order of preference,
// kinds in the order of [sdk.Kinds].
func (g *Genome) Selected() []PluginRef {
	var refs []PluginRef
	for _, kind := range sdk.Kinds() {
		for _, entry := range g.entries(kind) {
			refs = append(refs, g.ref(kind, entry))
		}
	}
	return refs
}

// Unselected lists the plugins that have a section and are not among
// [Genome.Selected]: a swap may select them while the kernel runs. They are
// sorted by key.
func (g *Genome) Unselected() []PluginRef {
	selected := g.Selected()
	var refs []PluginRef
	for _, key := range slices.Sorted(maps.Keys(g.Plugins)) {
		if slices.ContainsFunc(selected, func(r PluginRef) bool { return r.Key() == key }) {
			continue
		}
		word, instance, _ := strings.Cut(key, "-")
		if kind, err := sdk.ParseKind(word); err == nil {
			refs = append(refs, g.ref(kind, instance))
		}
	}
	return refs
}

// entries returns what golgi lists for a kind.
func (g *Genome) entries(kind sdk.Kind) []string {
	switch kind {
	case sdk.KindTransport:
		return g.Golgi.Transports
	case sdk.KindDiscovery:
		return g.Golgi.Discovery
	case sdk.KindLedger:
		return one(g.Golgi.Ledger)
	case sdk.KindBilling:
		return one(g.Golgi.Billing)
	}
	return nil
}

func one(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func (g *Genome) ref(kind sdk.Kind, entry string) PluginRef {
	r := PluginRef{Kind: kind, Instance: PluginName(kind, entry), Use: entry}
	if s, ok := g.Plugins[r.Key()]; ok {
		r.SHA256, r.Limits, r.Config = s.SHA256, s.Limits, s.Config
		if s.Use != "" {
			r.Use = s.Use
		}
	}
	return r
}

// Networked reports whether a plugin leads off this machine: all discoveries
// do, and all transports but "uds".
func (r PluginRef) Networked() bool {
	return r.Kind == sdk.KindDiscovery || r.Kind == sdk.KindTransport && r.Name() != "uds"
}

// NeedsNetwork reports whether any of these cells may be called by other
// machines, or calls what is not in this genome. If none is, the plugins that
// are [PluginRef.Networked] have nothing to do.
func (g *Genome) NeedsNetwork(cells []sdk.CellName) bool {
	return slices.ContainsFunc(cells, func(name sdk.CellName) bool {
		c := g.Cells[name]
		if c == nil {
			return false
		}
		if c.Listen.On {
			return true
		}
		for _, a := range c.Axons {
			if slices.ContainsFunc(a.To, func(t Target) bool { return t.Host != "" || g.Cells[t.Cell] == nil }) {
				return true
			}
		}
		return false
	})
}

// Listeners returns the addresses at which other machines may call a cell:
// its own, or golgi.listen by every transport that leaves this machine. A cell
// that is not there has none.
func (g *Genome) Listeners(c *Cell) []sdk.Addr {
	switch {
	case c == nil || !c.Listen.On:
		return nil
	case c.Listen.Addr.Scheme != "":
		return []sdk.Addr{c.Listen.Addr}
	}
	var list []sdk.Addr
	for _, scheme := range g.RemoteTransports() {
		list = append(list, sdk.Addr{Scheme: scheme, Host: g.Golgi.Listen})
	}
	return list
}

// RemoteTransports returns the transports that leave this machine, in order
// of preference.
func (g *Genome) RemoteTransports() []string {
	var names []string
	for _, entry := range g.Golgi.Transports {
		if name := g.ref(sdk.KindTransport, entry).Name(); name != "uds" {
			names = append(names, name)
		}
	}
	return names
}

// PluginName returns the instance that an entry of golgi stands for: a name, or
// the last element of a path without "<kind>-".
func PluginName(kind sdk.Kind, use string) string {
	return strings.TrimPrefix(filepath.Base(use), string(kind)+"-")
}

// isPath reports whether use names an executable and not a bundled plugin.
func isPath(use string) bool { return strings.ContainsRune(use, filepath.Separator) }
