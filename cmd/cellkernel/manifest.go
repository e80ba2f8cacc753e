package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/config"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/sdk"
)

// isManifest tells a file, or a directory that holds one, from the name of a
// cell: cells often live in directories of their name.
func isManifest(word string) bool {
	if strings.ContainsRune(word, os.PathSeparator) || strings.HasSuffix(word, ".toml") || word == "." || word == ".." {
		return true
	}
	info, err := os.Stat(word)
	if err == nil && info.IsDir() {
		_, err = os.Stat(filepath.Join(word, "genome.toml"))
	}
	return err == nil
}

// nearestManifest returns the genome.toml nearest to the working directory,
// or the one of the workspace that it is a member of.
func nearestManifest() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	file := manifestAbove(start)
	if info, err := os.Stat(filepath.Join(start, "genome.toml")); file == "" && err == nil && info.IsDir() {
		return "", &configError{err: fmt.Errorf("find genome.toml: the one in %s is a directory", start)}
	}
	if file == "" {
		return "", withHint(&configError{err: fmt.Errorf("find genome.toml: none in %s or above", start)},
			`"cellkernel init" writes one`)
	}
	member := realPath(filepath.Dir(file))
	for above := manifestAbove(filepath.Dir(filepath.Dir(file))); above != ""; above = manifestAbove(filepath.Dir(filepath.Dir(above))) {
		// A manifest that is wrong says nothing about its members.
		g, _, err := config.Load(config.Sources{File: above})
		if err == nil && slices.ContainsFunc(g.Workspace.Members, func(dir string) bool {
			if !filepath.IsAbs(dir) {
				dir = filepath.Join(filepath.Dir(above), dir)
			}
			return realPath(dir) == member
		}) {
			return above, nil
		}
		if filepath.Dir(above) == "/" {
			break
		}
	}
	return file, nil
}

// manifestAbove returns the first genome.toml from dir upward, or "".
func manifestAbove(dir string) string {
	for {
		file := filepath.Join(dir, "genome.toml")
		if info, err := os.Stat(file); err == nil && !info.IsDir() {
			return file
		}
		if dir == filepath.Dir(dir) {
			return ""
		}
		dir = filepath.Dir(dir)
	}
}

// settingsOf returns the variables that may be settings.
func settingsOf(environ []string) []string {
	return slices.DeleteFunc(environ, func(v string) bool { return !strings.HasPrefix(v, "CELLKERNEL_") })
}

// absolute makes paths absolute, in place.
func absolute(paths []string) error {
	for i, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return err
		}
		paths[i] = abs
	}
	return nil
}

// relative returns path as seen from the working directory, where that is
// shorter: messages name files as people do.
func relative(path string) string {
	dir, err := os.Getwd()
	if err != nil {
		return path
	}
	rel, err := filepath.Rel(dir, path)
	if err != nil || len(rel) >= len(path) {
		return path
	}
	return rel
}

// load reads the manifest of p.
func load(p admin.Plan) (*genome.Genome, *config.Origins, error) {
	src := config.Sources{File: relative(p.File), Environ: p.Environ, Sets: p.Sets, Bundled: sectionChecks()}
	for _, o := range p.Overlays {
		src.Overlays = append(src.Overlays, relative(o))
	}
	g, origins, err := config.Load(src)
	if err != nil {
		return nil, nil, manifestError(src.File, err)
	}
	return g, origins, nil
}

// manifestError turns the mistakes of a manifest into one error with a report.
func manifestError(file string, err error) error {
	var list config.Errors
	if !errors.As(err, &list) {
		return &configError{err: err}
	}
	what := "1 mistake"
	if len(list) != 1 {
		what = fmt.Sprintf("%d mistakes", len(list))
	}
	return &configError{err: fmt.Errorf("read %s: %s", file, what), report: list.Render(), list: list}
}

// bootError types an error of a kernel that was given a manifest: what it
// finds invalid is the manifest.
func bootError(err error) error {
	var conf *configError
	var list config.Errors
	switch {
	case errors.As(err, &conf):
		return err
	case errors.As(err, &list):
		return manifestError("genome.toml", err)
	case sdk.CodeOf(err) == sdk.CodeInvalid:
		return &configError{err: err}
	}
	return err
}

// checkState reports what is in the way of the directory beside the manifest
// in which the kernel keeps what is its own.
func checkState(file string) error {
	dir := filepath.Join(filepath.Dir(file), ".cell")
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return withHint(fmt.Errorf("make state directory: %s is a file", relative(dir)), "the kernel keeps its logs there: move the file away")
	}
	return nil
}

// knownCells reports a cell that the genome does not have.
func knownCells(g *genome.Genome, cells []string) error {
	for _, c := range cells {
		if g.Cells[sdk.CellName(c)] == nil {
			return withHint(sdk.Errorf(sdk.CodeNotFound, "up %q: no such cell in %s", c, relative(g.File)),
				`"cellkernel config show" lists the cells`)
		}
	}
	return nil
}
