package jsonledger

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// A fileSystem is the directory of a book. What is created, renamed or removed
// in it lasts when SyncDir has returned.
type fileSystem interface {
	List() ([]string, error)
	Open(name string) (file, error)      // for reading
	OpenWrite(name string) (file, error) // for reading and writing
	Create(name string) (file, error)    // for writing, and empty
	Rename(from, to string) error
	Remove(name string) error
	SyncDir() error
	Lock(name string) (io.Closer, error) // until closed, or the process ends
}

// A file is what a [fileSystem] opens. What is written or cut off lasts when
// Sync has returned.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	Truncate(size int64) error
	Sync() error
}

// A directory is a fileSystem of the operating system.
type directory struct{ root *os.Root }

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, errors.New("it is no regular file")
	}
	return info.Size(), nil
}

func (d directory) List() ([]string, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

func (d directory) open(name string, flags int) (file, error) {
	f, err := d.root.OpenFile(name, flags, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (d directory) Open(name string) (file, error)      { return d.open(name, os.O_RDONLY) }
func (d directory) OpenWrite(name string) (file, error) { return d.open(name, os.O_RDWR) }
func (d directory) Create(name string) (file, error) {
	return d.open(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}
func (d directory) Rename(from, to string) error { return d.root.Rename(from, to) }
func (d directory) Remove(name string) error     { return d.root.Remove(name) }

func (d directory) SyncDir() error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Lock takes a lock of flock(2), which ends with the process however that ends.
func (d directory) Lock(name string) (io.Closer, error) {
	f, err := d.root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	c, err := f.SyscallConn()
	if err == nil {
		var lockErr error
		err = c.Control(func(fd uintptr) { lockErr = syscall.Flock(int(fd), syscall.LOCK_EX|syscall.LOCK_NB) })
		err = errors.Join(err, lockErr)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %q: %w", name, err)
	}
	return f, nil
}
