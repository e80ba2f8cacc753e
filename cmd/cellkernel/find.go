package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

// runLink is where a genome's directory points to the run directory of its
// kernel, which holds the admin socket.
const runLink = ".cell/run"

// maxRunDirs bounds how many run directories are looked at.
const maxRunDirs = 256

// stoppedHint is for a kernel that is there and does not answer.
const stoppedHint = `it may be stopped or busy; "kill -CONT" wakes a stopped process`

// genomeFile returns the file that the user named by flag or environment, as
// an absolute path, or "" if there is none.
func (a *app) genomeFile() (string, error) {
	file := a.genome
	if file == "" {
		file = os.Getenv("CELLKERNEL_FILE")
	}
	if file == "" {
		return "", nil
	}
	return manifestAt(file)
}

// manifestAt returns the manifest at path, which may be a directory.
func manifestAt(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, "genome.toml")
	}
	return path, nil
}

// connect finds the kernel that is meant and connects to it: the one of the
// genome that was named, else the nearest that runs from the working
// directory upward, else, where no genome says which one is meant, the only
// one of this user. A kernel lives if it answers; files prove nothing.
func (a *app) connect(ctx context.Context) (*admin.Client, error) {
	c, err := a.here(ctx)
	if c != nil || err != nil {
		return c, err
	}
	return a.onlyOne(ctx)
}

// connectToChange is connect for commands that change what runs: they never
// mean a kernel that just happens to be the only one.
func (a *app) connectToChange(ctx context.Context) (*admin.Client, error) {
	c, err := a.here(ctx)
	if c != nil || err != nil {
		return c, err
	}
	if c, err = onlyOne(ctx); err != nil {
		return nil, err
	}
	defer c.Close()
	genome := printable(c.Version().Genome)
	return nil, withHint(sdk.Errorf(sdk.CodeNotFound, "find kernel: none runs here, and %s is not here", genome),
		"if you mean that one, say --genome %s", genome)
}

// here finds the kernel that was named, or the nearest from the working
// directory upward; nil if there is none.
func (a *app) here(ctx context.Context) (*admin.Client, error) {
	file, err := a.genomeFile()
	if err != nil {
		return nil, err
	}
	if file != "" {
		c, err := kernelOf(ctx, file)
		if err == nil && c == nil {
			err = notRunning(file)
		}
		return c, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	return nearest(ctx, filepath.Clean(dir), own) // $PWD may end in ".."
}

// notRunning is the error of a genome whose kernel is asked for.
func notRunning(file string) error {
	return withHint(sdk.Errorf(sdk.CodeUnavailable, "find kernel of %s: none is running", file), `start it with "cellkernel up %s"`, file)
}

// kernelOf returns the kernel that runs the given manifest, or nil if none
// does. The manifest may be that of a member of a workspace above it.
func kernelOf(ctx context.Context, file string) (*admin.Client, error) {
	dir := realPath(filepath.Dir(file))
	c, err := nearest(ctx, dir, func(c *admin.Client) bool {
		v := c.Version()
		// With two manifests in one directory the link is that of one of them.
		beside := realPath(filepath.Dir(v.Genome)) == dir
		return beside && realPath(v.Genome) == realPath(file) ||
			!beside && own(c) && slices.ContainsFunc(v.Dirs, func(d string) bool { return realPath(d) == dir })
	})
	if c != nil || err != nil {
		return c, err
	}
	// The link to it may be gone: what is in .cell can be deleted.
	for _, other := range running(ctx) {
		if c == nil && realPath(other.Version().Genome) == realPath(file) {
			c = other
		} else {
			other.Close()
		}
	}
	return c, nil
}

// realPath resolves links as far as path exists.
func realPath(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return filepath.Clean(path)
}

// nearest returns the first kernel from dir upward that answers and is meant,
// or nil. One that is there but does not answer is an error: its user must
// know. One that refuses us may have been put there by anyone, so the search
// goes on; it is an error only if there is no other.
func nearest(ctx context.Context, dir string, meant func(*admin.Client) bool) (*admin.Client, error) {
	var refused error
	for {
		c, err := dialIn(ctx, filepath.Join(dir, runLink))
		switch {
		case err != nil && sdk.CodeOf(err) == sdk.CodeDenied:
			refused = cmp.Or(refused, err)
		case err != nil:
			return nil, err
		case c != nil && meant(c):
			return c, nil
		case c != nil:
			c.Close()
		}
		up := filepath.Dir(dir)
		if up == dir {
			return nil, refused
		}
		dir = up
	}
}

// own reports whether c's kernel runs as this user. Root can talk to those of
// others, but means them only by name: a search may end in anyone's directory.
func own(c *admin.Client) bool { return c.UID() == os.Geteuid() }

// dialIn connects to the kernel whose run directory is at path, or returns
// nil if none runs there. The link is resolved first, since a socket's
// address is short.
func dialIn(ctx context.Context, path string) (*admin.Client, error) {
	run, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrPermission) {
		return nil, sdk.Errorf(sdk.CodeDenied, "open %s: it belongs to another user", path)
	}
	if err != nil {
		return nil, nil
	}
	socket := filepath.Join(run, admin.SocketName)
	if _, err := os.Lstat(socket); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	c, err := admin.Dial(ctx, socket)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, nil // left behind by a kernel that was killed
	}
	if sdk.CodeOf(err) == sdk.CodeUnavailable {
		return nil, withHint(err, stoppedHint)
	}
	return c, err
}

// runBase returns the directory that holds the run directories of this user's
// kernels, by the rule they follow themselves.
func runBase() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) && ours(dir) {
		return filepath.Join(dir, "cellkernel")
	}
	return fmt.Sprintf("/tmp/cellkernel-%d", os.Getuid())
}

// ours reports whether dir is a directory that only this user can change;
// in /tmp anyone can make one of any name.
func ours(dir string) bool {
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Getuid() && info.Mode().Perm()&0o022 == 0
}

// onlyOne returns the one kernel that this user runs, and says which it is.
func (a *app) onlyOne(ctx context.Context) (*admin.Client, error) {
	c, err := onlyOne(ctx)
	if err == nil {
		fmt.Fprintf(a.stderr, "cellkernel: using the kernel of %s\n", printable(c.Version().Genome))
	}
	return c, err
}

// onlyOne finds that kernel. Whoever stands in the directory of a genome means
// its kernel, and no other.
func onlyOne(ctx context.Context) (*admin.Client, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	if file := manifestAbove(filepath.Clean(dir)); file != "" {
		return nil, notRunning(file)
	}
	clients := running(ctx)
	switch len(clients) {
	case 0:
		return nil, withHint(sdk.Errorf(sdk.CodeUnavailable, "find kernel: none is running"),
			`start one with "cellkernel up" where a genome.toml is`)
	case 1:
		return clients[0], nil
	}
	var files []string
	for _, c := range clients {
		files = append(files, c.Version().Genome)
		c.Close()
	}
	return nil, withHint(sdk.Errorf(sdk.CodeNotFound, "find kernel: %d are running: %s", len(files), strings.Join(files, ", ")),
		"name one with --genome")
}

// running connects to every kernel of this user that answers, sorted by genome.
func running(ctx context.Context) []*admin.Client {
	var mu sync.Mutex // guards found
	var found []*admin.Client
	var wg sync.WaitGroup
	for _, dir := range runDirs() {
		wg.Go(func() {
			c, _ := dialIn(ctx, dir) // one that does not answer is not running
			if c == nil || !own(c) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			found = append(found, c)
		})
	}
	wg.Wait()
	slices.SortFunc(found, func(a, b *admin.Client) int {
		return strings.Compare(a.Version().Genome, b.Version().Genome)
	})
	// A directory that is listed twice is still one kernel.
	return slices.CompactFunc(found, func(a, b *admin.Client) bool { return a.PID() == b.PID() })
}

// runDirs lists the run directories of this user.
func runDirs() []string {
	base := runBase()
	if !ours(base) {
		return nil
	}
	var dirs []string
	entries, _ := os.ReadDir(base)
	for _, e := range entries[:min(len(entries), maxRunDirs)] {
		if e.IsDir() {
			dirs = append(dirs, filepath.Join(base, e.Name()))
		}
	}
	return dirs
}
