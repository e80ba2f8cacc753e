package membership

import (
	"context"
	endian "encoding/binary"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// memberPause lets whoever writes the files of a mesh finish: an editor moves
// the old one away before the new one is there.
const memberPause = 200 * time.Millisecond

// Watch follows the files of the mesh: what a command without a
// kernel, another kernel of this user or a person with an editor changes
// counts within a second. Stop ends it.
func (l *Live) Watch() (stop func() error, err error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch mesh: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify") // not blocking: a Close ends a Read
	path := l.files.store.Path()
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_DELETE|unix.IN_ONLYDIR); err != nil {
		f.Close()
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	changed := make(chan struct{}, 1)
	changed <- struct{}{} // it may have been before the watch began
	var wg sync.WaitGroup
	wg.Go(func() { readChanges(f, changed) })
	wg.Go(func() { l.follow(ctx, changed) })
	return func() error { cancel(); err := f.Close(); wg.Wait(); return err }, nil
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

func (l *Live) follow(ctx context.Context, changed <-chan struct{}) {
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
		l.reload()
	}
}
