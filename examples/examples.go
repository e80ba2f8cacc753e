// Package examples holds what shows cellkernel at work, and gives the
// template that "cellkernel init" copies. It is compiled and run like every
// other example, so what is copied works.
package examples

import (
	"embed"
	"io/fs"
)

//go:embed template-cell
var templates embed.FS

// TemplatePath is the import path of the template's directory, which a copy
// replaces by its own.
const TemplatePath = "github.com/cellkernel/cellkernel/examples/template-cell"

// Template returns the files of a directory in which "cellkernel up" works.
// A file named gitignore is meant to become .gitignore.
func Template() (fs.FS, error) { return fs.Sub(templates, "template-cell") }
