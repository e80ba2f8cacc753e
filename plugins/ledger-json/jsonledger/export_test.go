package jsonledger

import (
	"context"
	"io"
	"log/slog"
	"os"
)

// What tests put under a book.
type (
	FileSystem = fileSystem
	File       = file
)

// NewOn returns a ledger on any file system.
func NewOn(c Config, fs FileSystem) *Ledger {
	return newLedger(c, fs, slog.New(slog.NewTextHandler(io.Discard, nil)))
}

// VerifyOn is Verify on any file system.
func VerifyOn(ctx context.Context, fs FileSystem) (Report, error) { return verify(ctx, fs, nil) }

// FilesOf is a directory as a file system.
func FilesOf(root *os.Root) FileSystem { return directory{root} }

// Loaded counts the segments of an open book, and those whose ids are in memory.
func (l *Ledger) Loaded() (loaded, of int) {
	for _, s := range l.book.segments {
		if s.ids != nil {
			loaded++
		}
	}
	return max(loaded, len(l.book.loaded)), len(l.book.segments)
}

// MaxLoaded is how many there may be.
const MaxLoaded = maxLoaded
