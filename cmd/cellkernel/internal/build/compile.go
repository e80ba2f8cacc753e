package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// compile runs go build for all packages at once. Only packages whose
// executables would have the same name need another run.
func (m *module) compile(ctx context.Context) {
	rest := m.alive()
	for round := 0; len(rest) > 0; round++ {
		dir := filepath.Join(m.tmp, fmt.Sprint(round))
		paths := map[string]string{} // by the executable's name
		var now, later []*task
		for _, t := range rest {
			name := executableName(t.pkg.ImportPath)
			if other, ok := paths[name]; ok && other != t.pkg.ImportPath {
				later = append(later, t)
				continue
			}
			paths[name] = t.pkg.ImportPath
			now = append(now, t)
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			m.failAll(fmt.Errorf("make output directory: %w", err))
			return
		}
		m.compileInto(ctx, dir, now)
		rest = later
	}
}

// compileInto makes the executables of tasks in dir.
func (m *module) compileInto(ctx context.Context, dir string, tasks []*task) {
	// The executable outlives the commit that a version stamp would name.
	args := []string{"build", "-buildvcs=false", "-o", dir + string(filepath.Separator), "--"}
	for _, t := range tasks {
		if !slices.Contains(args, t.pkg.ImportPath) {
			args = append(args, t.pkg.ImportPath)
		}
	}
	_, text, err := m.run(ctx, m.root, args...)
	for _, t := range tasks {
		t.built = filepath.Join(dir, executableName(t.pkg.ImportPath))
		if _, missing := os.Stat(t.built); err != nil && missing != nil || ctx.Err() != nil {
			t.err = complaint(linesFor(t.pkg, text), err)
		}
	}
}

// executableName is what go build calls the executable of a package.
func executableName(importPath string) string {
	name := path.Base(importPath)
	if isMajor(name) && path.Dir(importPath) != "." {
		name = path.Base(path.Dir(importPath))
	}
	return name
}

// isMajor reports whether s is the last element of a module's path that only
// says its major version: v2 and above.
func isMajor(s string) bool {
	digits, ok := strings.CutPrefix(s, "v")
	return ok && digits != "" && digits != "1" && digits[0] != '0' && strings.Trim(digits, "0123456789") == ""
}

// linesFor picks the compiler's lines about a package and its dependencies.
// They come in sections, "# path" above each; the cell's own needs no name.
func linesFor(p *listed, text []byte) []byte {
	var mine []byte
	keep := true // lines before the first section are about everything
	for line := range bytes.Lines(text) {
		if head, ok := bytes.CutPrefix(line, []byte("# ")); ok {
			about, _, _ := strings.Cut(strings.TrimSpace(string(head)), " ")
			keep = about == p.ImportPath || slices.Contains(p.Deps, about)
		}
		if keep && !bytes.HasPrefix(line, []byte("# "+p.ImportPath+"\n")) {
			mine = append(mine, line...)
		}
	}
	if len(mine) == 0 {
		return text
	}
	return mine
}

// place puts an executable where the job wants it, unless the same one is
// there already: then what runs from it is up to date.
func (m *module) place(t *task) error {
	if same(t.built, t.Out) {
		t.result.Path = t.Out
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(t.Out), 0o755); err != nil {
		return fmt.Errorf("make output directory: %w", err)
	}
	// Another cell may want the same executable: it stays where it is.
	next := filepath.Join(m.tmp, "next")
	if err := copyFile(t.built, next); err != nil {
		return err
	}
	if err := move(next, t.Out); err != nil {
		return err
	}
	t.result.Path, t.result.Built = t.Out, true
	return nil
}

// move renames from to to, or copies it if they lie on different file systems.
func move(from, to string) error {
	if err := os.Rename(from, to); err == nil {
		return nil
	}
	beside, err := os.MkdirTemp(filepath.Dir(to), tempPrefix)
	if err != nil {
		return fmt.Errorf("put %s in place: %w", to, err)
	}
	defer os.RemoveAll(beside)
	next := filepath.Join(beside, "next")
	defer os.Remove(from)
	if err := copyFile(from, next); err != nil {
		return err
	}
	if err := os.Rename(next, to); err != nil {
		return fmt.Errorf("put %s in place: %w", to, err)
	}
	return nil
}

// copyFile makes to a file of its own with what is in from: by a link where
// the file system has them, as neither is ever written to again.
func copyFile(from, to string) error {
	if err := os.Link(from, to); err == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy executable: %w", err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return fmt.Errorf("copy executable: %w", err)
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm())
	if err != nil {
		return fmt.Errorf("copy executable: %w", err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("copy executable: %w", err)
	}
	return nil
}

// same reports whether two files have the same contents.
func same(a, b string) bool {
	x, err := os.Open(a)
	if err != nil {
		return false
	}
	defer x.Close()
	y, err := os.Open(b)
	if err != nil {
		return false
	}
	defer y.Close()
	xi, errx := x.Stat()
	yi, erry := y.Stat()
	if errx != nil || erry != nil || xi.Size() != yi.Size() || xi.Mode() != yi.Mode() {
		return false
	}
	p, q := make([]byte, 256<<10), make([]byte, 256<<10)
	for {
		n, errx := io.ReadFull(x, p)
		k, erry := io.ReadFull(y, q)
		if n != k || !bytes.Equal(p[:n], q[:k]) {
			return false
		}
		if errx != nil || erry != nil {
			return errx == io.EOF || errx == io.ErrUnexpectedEOF
		}
	}
}
