package main

import (
	"context"
	"path/filepath"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/internal/build"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/sdk"
)

// buildCells builds what changed of the programs of cells that have a package,
// in dir, and returns the paths of all of them. Say gets what was done and why.
func buildCells(ctx context.Context, cells []*genome.Cell, dir string, say func(string)) (map[sdk.CellName]string, error) {
	var jobs []build.Job
	for _, c := range cells {
		if c.Package == "" {
			continue
		}
		jobs = append(jobs, build.Job{Name: string(c.Name), Dir: c.Dir, Package: c.Package, Out: filepath.Join(dir, string(c.Name))})
	}
	results, err := build.Cells(ctx, jobs, build.Options{Log: say})
	if err != nil {
		return nil, err
	}
	paths := map[sdk.CellName]string{}
	for _, r := range results {
		paths[sdk.CellName(r.Name)] = r.Path
	}
	return paths, nil
}
