package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"

	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/sdk"
)

// buildCells builds the programs of cells into dir.
func buildCells(ctx context.Context, cells []*genome.Cell, dir string, say func(string)) (map[sdk.CellName]string, error) {
	paths := make(map[sdk.CellName]string)
	for _, c := range cells {
		out := filepath.Join(dir, string(c.Name))
		cmd := exec.CommandContext(ctx, "go", "build", "-o", out, c.Package)
		cmd.Dir = c.Dir
		if b, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build cell %q: %w\n%s", c.Name, err, b)
		}
		say(string(c.Name))
		paths[c.Name] = out
	}
	return paths, nil
}
