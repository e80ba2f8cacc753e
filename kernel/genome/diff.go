package genome

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/cellkernel/cellkernel/sdk"
)

// An Op is what a running kernel has to do for one [Change].
type Op string

// The operations. Reboot needs down and up: the running kernel leaves the
// setting as it is.
const (
	OpAdd     Op = "add"     // a new cell
	OpRemove  Op = "remove"  // drain and forget the cell
	OpRestart Op = "restart" // replace the replicas one by one
	OpScale   Op = "scale"   // start or drain replicas
	OpUpdate  Op = "update"  // apply without touching a process
	OpSwap    Op = "swap"    // exchange plugins while cells go on
	OpReboot  Op = "reboot"
)

// A Change is one difference between two genomes.
type Change struct {
	Op     Op           `json:"op"`
	Key    string       `json:"key"`              // "cells.worker", "golgi.links"
	Cell   sdk.CellName `json:"cell,omitempty"`   // empty for settings of the kernel
	Fields []string     `json:"fields,omitempty"` // keys of the cell that differ
	From   string       `json:"from,omitempty"`   // old and new value where one value changed
	To     string       `json:"to,omitempty"`
}

// String renders a change for people: "restart cells.worker (args, env)".
func (c Change) String() string {
	s := string(c.Op) + " " + c.Key
	if len(c.Fields) > 0 {
		s += " (" + strings.Join(c.Fields, ", ") + ")"
	}
	if c.From != "" || c.To != "" {
		s += ": " + c.From + " -> " + c.To
	}
	return s
}

// Diff returns what turns a kernel that runs old into one that runs new, in
// the order in which to do it: settings, removals, additions, then changes of
// cells that stay. Nothing is listed twice, equal genomes have no difference.
// Whether a package has to be rebuilt is not visible here.
func Diff(old, new *Genome) []Change {
	changes := diffSettings(old, new)
	for _, name := range slices.Sorted(maps.Keys(old.Cells)) {
		if new.Cells[name] == nil {
			changes = append(changes, Change{Op: OpRemove, Key: cellKey(name), Cell: name})
		}
	}
	for _, name := range orderOf(new) {
		if old.Cells[name] == nil {
			changes = append(changes, Change{Op: OpAdd, Key: cellKey(name), Cell: name})
		}
	}
	for _, name := range orderOf(new) {
		if was := old.Cells[name]; was != nil {
			changes = append(changes, diffCell(was, new.Cells[name])...)
		}
	}
	return changes
}

func cellKey(name sdk.CellName) string { return "cells." + string(name) }

// orderOf is Order, or by name where that is impossible.
func orderOf(g *Genome) []sdk.CellName {
	if order, err := Order(g); err == nil {
		return order
	}
	return slices.Sorted(maps.Keys(g.Cells))
}

func diffSettings(old, new *Genome) []Change {
	var changes []Change
	sections := []struct {
		name     string
		old, new any
	}{{"kernel", old.Kernel, new.Kernel}, {"golgi", old.Golgi, new.Golgi}}
	for _, s := range sections {
		for _, f := range differing(s.old, s.new) {
			op := OpReboot
			if s.name == "golgi" && f.key == "discovery" {
				op = OpSwap
			}
			changes = append(changes, Change{Op: op, Key: s.name + "." + f.key, From: text(f.old), To: text(f.new)})
		}
	}
	for _, name := range unionKeys(old.Plugins, new.Plugins) {
		was, had := old.Plugins[name]
		is, has := new.Plugins[name]
		if had != has || !same(was, is) {
			op := OpReboot
			if kind, instance, _ := strings.Cut(name, "-"); kind == string(sdk.KindDiscovery) || kind == string(sdk.KindTransport) && instance != "uds" {
				op = OpSwap
			}
			changes = append(changes, Change{Op: op, Key: "plugins." + name})
		}
	}
	if from, to := old.Workspace.Main, new.Workspace.Main; from != to {
		changes = append(changes, Change{Op: OpUpdate, Key: "workspace.main", From: string(from), To: string(to)})
	}
	return changes
}

// live reports whether a field of a cell takes effect without a new process:
// who is called and who may call. Everything else is told to a process when it
// starts, how it treats its axons included.
func live(f field) bool {
	switch f.key {
	case "file", "listen", "allow", "junctions":
		return true
	case "axons":
		return sameManners(f.old.(map[sdk.CellName]*Axon), f.new.(map[sdk.CellName]*Axon))
	}
	return false
}

// sameManners reports whether two sets of axons differ at most in which there
// are and where they lead.
func sameManners(old, new map[sdk.CellName]*Axon) bool {
	for name, is := range new {
		was := old[name]
		if was == nil {
			was = &Axon{}
			if reflect.DeepEqual(manners(*is), manners(*DefaultAxon(Default().Golgi))) {
				continue
			}
		}
		if !reflect.DeepEqual(manners(*was), manners(*is)) {
			return false
		}
	}
	return true
}

// manners is an axon without where it leads.
func manners(a Axon) Axon {
	a.To, a.Peers, a.Wait = nil, nil, false
	return a
}

func diffCell(old, new *Cell) []Change {
	restart := Change{Op: OpRestart, Key: cellKey(new.Name), Cell: new.Name}
	update := Change{Op: OpUpdate, Key: cellKey(new.Name), Cell: new.Name}
	var changes []Change
	for _, f := range differing(*old, *new) {
		switch {
		case f.key == "replicas":
			changes = append(changes, Change{
				Op: OpScale, Key: cellKey(new.Name), Cell: new.Name, From: text(f.old), To: text(f.new),
			})
		case live(f):
			update.Fields = append(update.Fields, f.key)
		default:
			restart.Fields = append(restart.Fields, f.key)
		}
	}
	for _, c := range []Change{update, restart} {
		if len(c.Fields) > 0 {
			changes = append(changes, c)
		}
	}
	return changes
}

// field is one field of two structs of one type.
type field struct {
	key      string
	old, new any
}

// differing returns the fields of two structs of one type that differ.
func differing(old, new any) []field {
	var out []field
	a, b := reflect.ValueOf(old), reflect.ValueOf(new)
	for i := range a.NumField() {
		f := field{a.Type().Field(i).Tag.Get("json"), a.Field(i).Interface(), b.Field(i).Interface()}
		if !same(f.old, f.new) {
			out = append(out, f)
		}
	}
	return out
}

// same compares by what genome.toml could tell apart: nil and empty are one,
// and so are 5 and 5.0 of a plugin's section.
func same(a, b any) bool {
	return bytes.Equal(canonical(a), canonical(b))
}

func canonical(v any) []byte {
	if r := reflect.ValueOf(v); (r.Kind() == reflect.Slice || r.Kind() == reflect.Map) && r.Len() == 0 {
		return nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Appendf(nil, "%#v", v)
	}
	return text
}

func text(v any) string {
	switch v := v.(type) {
	case fmt.Stringer:
		return v.String()
	case string:
		return fmt.Sprintf("%q", v)
	}
	return string(canonical(v))
}

// unionKeys returns the keys of both maps, sorted.
func unionKeys[V any](a, b map[string]V) []string {
	keys := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(keys)
	return slices.Compact(keys)
}
