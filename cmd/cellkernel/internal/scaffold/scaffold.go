// Package scaffold writes a new directory of cells from the template that is
// compiled with the examples, and puts it into a Go module.
package scaffold

import (
	"bytes"
	"errors"
	"fmt"
	"go/format"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// ErrExist is the cause where a file would be overwritten.
var ErrExist = errors.New("it exists already")

// Copy writes every file of src below dir, with from replaced by to in its
// text and its Go files formatted, and returns their names in order. It makes dir. Nothing is written if
// one of the files exists already.
func Copy(dir string, src fs.FS, from, to string) ([]string, error) {
	var names []string
	err := fs.WalkDir(src, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		switch _, err := os.Lstat(filepath.Join(dir, target(name))); {
		case err == nil:
			return fmt.Errorf("write %q: %w", filepath.Join(dir, target(name)), ErrExist)
		case !errors.Is(err, os.ErrNotExist):
			return err
		}
		names = append(names, name)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		text, err := fs.ReadFile(src, name)
		if err != nil {
			return nil, err
		}
		names[i] = target(name)
		text = bytes.ReplaceAll(text, []byte(from), []byte(to))
		if path.Ext(name) == ".go" { // the order of imports depends on the name
			if text, err = format.Source(text); err != nil {
				return nil, fmt.Errorf("format %q: %w", names[i], err)
			}
		}
		if err := write(filepath.Join(dir, names[i]), text); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// target is the name of a template's file in its copy: files whose names
// begin with a dot would not be part of the template.
func target(name string) string {
	if path.Base(name) == "gitignore" {
		return path.Join(path.Dir(name), ".gitignore")
	}
	return name
}

func write(file string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}
