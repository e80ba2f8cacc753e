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
