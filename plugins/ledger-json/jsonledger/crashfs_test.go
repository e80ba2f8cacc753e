package jsonledger_test

import (
	"errors"
	"io"
	"math/rand/v2"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cellkernel/cellkernel/plugins/ledger-json/jsonledger"
)

// A disk is a directory in memory that can lose power: what was not synced,
// names included, is there afterwards or not, block by block.
type disk struct {
	mem *vfs.MemFS
	// before is asked before each change; an error is what the operation
	// returns, and of a write only so many bytes are done.
	before func(op, name string) (int, error)
}

func newDisk() *disk { return &disk{mem: vfs.NewCrashableMem()} }

// crash returns the disk as it may be found when the power is back.
func (d *disk) crash(percent int, r *rand.Rand) *disk {
	return &disk{mem: d.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: r})}
}

func (d *disk) ask(op, name string) (int, error) {
	if d.before == nil {
		return 0, nil
	}
	return d.before(op, name)
}

func (d *disk) List() ([]string, error) { return d.mem.List("") }

func (d *disk) Open(name string) (jsonledger.File, error) {
	if _, err := d.ask("open", name); err != nil {
		return nil, err
	}
	f, err := d.mem.Open(name)
	if err != nil {
		return nil, err
	}
	return &diskFile{File: f, d: d, name: name}, nil
}

func (d *disk) OpenWrite(name string) (jsonledger.File, error) {
	if _, err := d.ask("open", name); err != nil {
		return nil, err
	}
	f, err := d.mem.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	return &diskFile{File: f, d: d, name: name}, nil
}

func (d *disk) Create(name string) (jsonledger.File, error) {
	if _, err := d.ask("create", name); err != nil {
		return nil, err
	}
	f, err := d.mem.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	return &diskFile{File: f, d: d, name: name}, nil
}

func (d *disk) Rename(from, to string) error {
	if _, err := d.ask("rename", to); err != nil {
		return err
	}
	return d.mem.Rename(from, to)
}

func (d *disk) Remove(name string) error {
	if _, err := d.ask("remove", name); err != nil {
		return err
	}
	return d.mem.Remove(name)
}

func (d *disk) SyncDir() error {
	if _, err := d.ask("syncdir", ""); err != nil {
		return err
	}
	f, err := d.mem.OpenDir("")
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *disk) Lock(name string) (io.Closer, error) { return d.mem.Lock(name) }

type diskFile struct {
	vfs.File
	d        *disk
	name     string
	replaced bool // cut: another file has the name, which is not durable
}

func (f *diskFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f *diskFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.d.ask("write", f.name)
	if err == nil {
		return f.File.WriteAt(p, off)
	}
	n, _ = f.File.WriteAt(p[:min(n, len(p))], off)
	return n, err
}

func (f *diskFile) Sync() error {
	if _, err := f.d.ask("sync", f.name); err != nil {
		return err
	}
	if err := f.File.Sync(); err != nil || !f.replaced {
		return err
	}
	f.replaced = false
	dir, err := f.d.mem.OpenDir("")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Truncate has the two outcomes that a file system has, of which a crash finds
// one unless Sync was called: the old file has the name, or the shorter one.
func (f *diskFile) Truncate(size int64) error {
	if _, err := f.d.ask("truncate", f.name); err != nil {
		return err
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	cut, err := f.d.mem.Create(f.name+".cut", vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if _, err := cut.WriteAt(b, 0); err != nil {
		return err
	}
	if err := errors.Join(cut.Sync(), f.d.mem.Rename(f.name+".cut", f.name), f.File.Close()); err != nil {
		return err
	}
	f.File, f.replaced = cut, true
	return nil
}
