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
	results, err := build.Cells(ctx, jobsOf(cells, dir), build.Options{Log: say})
	if err != nil {
		return nil, err
	}
	paths := map[sdk.CellName]string{}
	for _, r := range results {
		paths[sdk.CellName(r.Name)] = r.Path
	}
	return paths, nil
}

// staleCells lists the cells whose programs buildCells would make anew. It
// writes nothing.
func staleCells(cells []*genome.Cell, dir string) ([]sdk.CellName, error) {
	why, err := build.Stale(jobsOf(cells, dir), build.Options{})
	if err != nil {
		return nil, err
	}
	var names []sdk.CellName
	for _, c := range cells {
		if why[string(c.Name)] != "" {
			names = append(names, c.Name)
		}
	}
	return names, nil
}

func jobsOf(cells []*genome.Cell, dir string) []build.Job {
	var jobs []build.Job
	for _, c := range cells {
		if c.Package != "" {
			jobs = append(jobs, build.Job{Name: string(c.Name), Dir: c.Dir, Package: c.Package, Out: filepath.Join(dir, string(c.Name))})
		}
	}
	return jobs
}
