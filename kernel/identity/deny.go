package identity

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cellkernel/cellkernel/sdk"
)

// MaxDenied is how many nodes a deny list holds.
const MaxDenied = 4096

// Denied is a set of nodes that are kept out although they may know the mesh
// secret. It does not change. The zero Denied is empty.
type Denied struct{ ids map[sdk.NodeID]bool }

// Has reports whether a node is kept out.
func (d Denied) Has(node sdk.NodeID) bool { return d.ids[node] }

// List returns the nodes, sorted.
func (d Denied) List() []sdk.NodeID { return slices.Sorted(maps.Keys(d.ids)) }

// Denied loads the deny list of the mesh. A line that is not a node id is an
// error: a list that is not understood must not let anybody in. Empty lines
// and what follows a # are ignored.
func (s *Store) Denied() (Denied, error) {
	b, err := s.dir.read(denyFile, 128*MaxDenied)
	if errors.Is(err, fs.ErrNotExist) {
		return Denied{}, nil
	}
	if err != nil {
		return Denied{}, err
	}
	d := Denied{make(map[sdk.NodeID]bool)}
	line := 0
	for text := range bytes.Lines(b) {
		line++
		id, _, _ := strings.Cut(string(text), "#")
		if id = strings.TrimSpace(id); id == "" {
			continue
		}
		node, err := sdk.ParseNodeID(id)
		if err != nil {
			return Denied{}, fmt.Errorf("%s:%d: %w", filepath.Join(s.dir.path, denyFile), line, err)
		}
		d.ids[node] = true
	}
	if len(d.ids) > MaxDenied {
		return Denied{}, denied(filepath.Join(s.dir.path, denyFile), "it has %d nodes: at most %d", len(d.ids), MaxDenied)
	}
	return d, nil
}

// Deny adds a node to the deny list, Undeny takes one away; both write the
// list anew, without the comments it had, and return it.
func (s *Store) Deny(node sdk.NodeID) (Denied, error) { return s.setDenied(node, true) }

// Undeny takes a node off the deny list.
func (s *Store) Undeny(node sdk.NodeID) (Denied, error) { return s.setDenied(node, false) }

func (s *Store) setDenied(node sdk.NodeID, in bool) (Denied, error) {
	if _, err := sdk.ParseNodeID(string(node)); err != nil {
		return Denied{}, fmt.Errorf("change deny list: %w", err)
	}
	d, err := s.Denied()
	if err != nil || d.Has(node) == in {
		return d, err
	}
	if len(d.ids) >= MaxDenied && in {
		return d, sdk.Errorf(sdk.CodeTooLarge, "change deny list: it has %d nodes, which is all it holds", MaxDenied)
	}
	next := Denied{maps.Clone(d.ids)}
	if next.ids == nil {
		next.ids = make(map[sdk.NodeID]bool)
	}
	next.ids[node] = true
	if !in {
		delete(next.ids, node)
	}
	var b bytes.Buffer
	for _, id := range next.List() {
		fmt.Fprintln(&b, id)
	}
	return next, s.dir.replace(denyFile, b.Bytes())
}
