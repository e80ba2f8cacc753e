package netlab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	killRounds = 50              // of killing what a killed program had just started
	killWithin = 5 * time.Second // for one process to end
)

// killAll kills the processes whose network namespace has the inode and waits
// for their end, until there are none.
func killAll(inode uint64) error {
	for range killRounds {
		found, err := killOnce(inode)
		if err != nil || found == 0 {
			return err
		}
	}
	return errors.New("kill programs of the host: they keep starting others")
}

// killOnce is one round of killAll; it returns how many it found.
func killOnce(inode uint64) (found int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, fmt.Errorf("list processes: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || !lives(pid, inode) {
			continue
		}
		found++
		if err := killIn(pid, inode); err != nil {
			return found, err
		}
	}
	return found, nil
}

// lives reports whether a process is in the namespace. One that has ended, but
// was not waited for, is in none.
func lives(pid int, inode uint64) bool {
	var st unix.Stat_t
	err := unix.Stat(filepath.Join("/proc", strconv.Itoa(pid), "ns/net"), &st)
	return err == nil && st.Ino == inode
}

// killIn kills a process and waits for its end. It holds the process by a
// descriptor, so that nobody else is hit who gets its number meanwhile.
func killIn(pid int, inode uint64) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if !lives(pid, inode) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	for late := time.Now().Add(killWithin); ; {
		left := unix.NsecToTimespec(max(0, time.Until(late).Nanoseconds()))
		n, err := unix.Ppoll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, &left, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for process %d: %w", pid, err)
		case n == 0:
			return fmt.Errorf("kill process %d: it did not end within %s", pid, killWithin)
		default:
			return nil
		}
	}
}
