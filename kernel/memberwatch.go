package kernel

import (
	"context"
	endian "encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// memberPause lets whoever writes the files of a mesh finish: an editor moves
// the old one away before the new one is there.
const memberPause = 200 * time.Millisecond

// openMemberWatch follows the files of the mesh: what a command without a
// kernel, another kernel of this user or a person with an editor changes
// counts within a second.
func (k *Kernel) openMemberWatch(end *closers) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch mesh: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify") // not blocking: a Close ends a Read
	if _, err := unix.InotifyAddWatch(fd, k.member.store.Path(), unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_DELETE|unix.IN_ONLYDIR); err != nil {
		f.Close()
		return fmt.Errorf("watch %s: %w", k.member.store.Path(), err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	changed := make(chan struct{}, 1)
	changed <- struct{}{} // it may have been before the watch began
	var wg sync.WaitGroup
	wg.Go(func() { readChanges(f, changed) })
	wg.Go(func() { k.followMember(ctx, changed) })
	end.add(func() error { cancel(); err := f.Close(); wg.Wait(); return err })
	return nil
}

// readChanges notes changes until f is closed. Those that were lost because
// too many were waiting are some, too.
func readChanges(f *os.File, changed chan<- struct{}) {
	buf := make([]byte, 64*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))
	for {
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		if !concerns(buf[:n]) {
			continue
		}
		select {
		case changed <- struct{}{}:
		default: // noted already
		}
	}
}

// concerns reports whether one of the events is about the secret or the deny
// list (inotify(7), struct inotify_event).
func concerns(events []byte) bool {
	for len(events) >= unix.SizeofInotifyEvent {
		mask := endian.NativeEndian.Uint32(events[4:])
		end := min(unix.SizeofInotifyEvent+int(endian.NativeEndian.Uint32(events[12:])), len(events))
		name := strings.TrimRight(string(events[unix.SizeofInotifyEvent:end]), "\x00")
		if name == "mesh.key" || name == "deny" || mask&unix.IN_Q_OVERFLOW != 0 {
			return true
		}
		events = events[end:]
	}
	return false
}

func (k *Kernel) followMember(ctx context.Context, changed <-chan struct{}) {
	for {
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
		pause := time.NewTimer(memberPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
		select {
		case <-changed: // during the pause
		default:
		}
		k.reloadMember()
	}
}

// reloadMember makes effective what the files say. What can not be read leaves
// things as they are: nobody is let in by a mistake.
func (k *Kernel) reloadMember() {
	m := &k.member
	m.changing.Lock()
	defer m.changing.Unlock()
	switch mesh, err := m.store.Mesh(); {
	case errors.Is(err, fs.ErrNotExist): // its directory may have been thrown away, which a private mesh may
		k.log.Warn("the secret of the mesh is gone: the kernel keeps it until it ends", "dir", m.store.Path())
	case err != nil:
		k.note(fmt.Sprintf("the mesh stays as it is: %v", err))
	case mesh.ID() != m.mesh.Load().ID():
		n := k.setMesh(mesh)
		k.note(fmt.Sprintf("the secret of the mesh was replaced on disk; %s", countOf(n, "link was ended", "links were ended")))
	}
	switch d, err := m.store.Denied(); {
	case err != nil:
		k.note(fmt.Sprintf("the deny list stays as it is: %v", err))
	case !slices.Equal(d.List(), m.denied.Load().List()):
		n := k.setDenied(d)
		k.note(fmt.Sprintf("the deny list was changed on disk; %s", countOf(n, "link was ended", "links were ended")))
	}
}
