package scaffold

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/build"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
)

// SDK is the path of the module that cells link.
const SDK = "github.com/cellkernel/cellkernel"

// tool is the command that modules of cells run to generate code.
const tool = SDK + "/cmd/cellkernel"

// A Module is the Go module that a directory belongs to.
type Module struct {
	Path string // of the module: "example.com/shop"
	Root string // its directory, absolute
	New  bool   // has no go.mod yet
}

// FindModule returns the module around dir, which need not exist yet: the one
// whose go.mod is nearest, or a new one with the given path (empty: after the
// directory's name).
func FindModule(dir, path string) (*Module, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	for root := dir; ; root = filepath.Dir(root) {
		text, err := os.ReadFile(filepath.Join(root, "go.mod"))
		switch {
		case err == nil:
			m := &Module{Path: modulePath(text), Root: root}
			if m.Path == "" {
				return nil, fmt.Errorf("read %s: no module line", filepath.Join(root, "go.mod"))
			}
			if path != "" && path != m.Path {
				return nil, fmt.Errorf("make module %q: %s is in module %q already", path, dir, m.Path)
			}
			return m, nil
		case !errors.Is(err, os.ErrNotExist):
			return nil, err
		case root == filepath.Dir(root):
			if path == "" {
				path = pathFor(filepath.Base(dir))
			}
			return &Module{Path: path, Root: dir, New: true}, nil
		}
	}
}

// modulePath returns what the module line of a go.mod says.
func modulePath(text []byte) string {
	for line := range bytes.Lines(text) {
		if f := strings.Fields(string(line)); len(f) >= 2 && f[0] == "module" {
			return strings.Trim(f[1], "\"`")
		}
	}
	return ""
}

// pathFor makes a module path of a directory's name.
func pathFor(name string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		}
		return '-'
	}, name)
	clean = strings.Trim(clean, "-")
	switch _, err := os.Stat(filepath.Join(build.Default.GOROOT, "src", clean)); {
	case clean == "" || clean == "go" || clean == "std" || clean == "cmd":
		return "cells"
	case clean == "mod" || err == nil: // the go command takes these for its own, and for the standard library's
		return "example.com/" + clean
	}
	return clean
}

// Import returns the import path of dir, which is in m, if it can be one.
func (m *Module) Import(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	rel, err := filepath.Rel(m.Root, dir)
	if err != nil {
		return "", err
	}
	name := path.Join(m.Path, filepath.ToSlash(rel))
	return name, checkImport(name)
}

// checkImport reports what the go command would not import.
func checkImport(name string) error {
	for elem := range strings.SplitSeq(name, "/") {
		if elem == "" || elem[0] == '.' || elem[0] == '-' || elem[len(elem)-1] == '.' {
			return fmt.Errorf("import path %q: it has the element %q", name, elem)
		}
		for _, r := range elem {
			letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
			if !letter && !strings.ContainsRune("-._~+", r) {
				return fmt.Errorf("import path %q: it has the character %q", name, r)
			}
		}
	}
	return nil
}

// Require makes m a module that can link the sdk and run the generator: the
// version that this program was built from, or the checkout it was built in,
// or the one at sdk if that is given. Say gets every command that is run.
func (m *Module) Require(ctx context.Context, sdk string, say func(string)) error {
	if m.Path == SDK {
		return nil // its own examples
	}
	src, err := sourceOf(sdk)
	if err != nil {
		return err
	}
	run := func(args ...string) error {
		say("go " + strings.Join(args, " "))
		return goCommand(ctx, m.Root, args...)
	}
	if m.New {
		if err := run("mod", "init", m.Path); err != nil {
			return err
		}
	}
	edit := []string{"mod", "edit", "-require=" + SDK + "@" + src.version, "-tool=" + tool}
	if src.dir != "" {
		edit = append(edit, "-replace="+SDK+"="+src.dir)
	}
	if err := run(edit...); err != nil {
		return err
	}
	if m.New {
		return run("mod", "tidy")
	}
	// Tidying would change more of somebody else's module than we need: naming
	// the packages is enough for what they need to be noted.
	return run("list", "-mod=mod", "-deps", tool, m.Path+"/...")
}

// source is where the sdk comes from: a version, and of one that is not
// published the directory as well.
type source struct{ version, dir string }

// unpublished is the version of a module that is replaced by a directory.
const unpublished = "v0.0.0"

func sourceOf(sdk string) (source, error) {
	if sdk != "" {
		dir, err := filepath.Abs(sdk)
		if err != nil {
			return source{}, err
		}
		if !isCheckout(dir) {
			return source{}, fmt.Errorf("use sdk %q: not a checkout of %s", sdk, SDK)
		}
		return source{unpublished, dir}, nil
	}
	if v := builtFrom(); v != "" {
		return source{version: v}, nil
	}
	if dir := checkout(); dir != "" {
		return source{unpublished, dir}, nil
	}
	return source{}, errors.New("find sdk: this binary is no release and its checkout is gone: name one with --sdk DIR")
}

// builtFrom returns the released version that this program was built from.
func builtFrom() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range append(info.Deps, &info.Main) {
		// A checkout has "(devel)", or a made-up version that nobody can fetch.
		if m.Path == SDK && m.Replace == nil && strings.HasPrefix(m.Version, "v") &&
			!strings.Contains(m.Version, "+") && !strings.HasPrefix(m.Version, unpublished) {
			return m.Version
		}
	}
	return ""
}

// checkout returns the directory of the source of this program, or "".
func checkout() string {
	_, file, _, ok := runtime.Caller(0) // …/cmd/cellkernel/internal/scaffold/module.go
	if !ok {
		return ""
	}
	dir := filepath.Join(filepath.Dir(file), "../../../..")
	if !filepath.IsAbs(file) || !isCheckout(dir) {
		return ""
	}
	return dir
}

func isCheckout(dir string) bool {
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	return err == nil && modulePath(text) == SDK
}

// goCommand runs the go command in dir; its output is part of the error.
func goCommand(ctx context.Context, dir string, args ...string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
