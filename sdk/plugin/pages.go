package plugin

import (
	"bufio"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// leaveStartup takes the pages of the program out of this process that it
// needed to start: what is needed again comes back from the page cache, a few
// microseconds each. A bundled plugin is the whole command, whose packages all
// initialise themselves, and most of them are never used in it. Only file
// pages that can not have been written to are given up, so that nothing is lost.
func leaveStartup() {
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return // then they stay
	}
	defer maps.Close()
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		f := strings.Fields(lines.Text()) // address, permissions, offset, device, inode, path: proc(5)
		if len(f) < 6 || f[1][1] == 'w' || strings.Join(f[5:], " ") != self {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		begin, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 != nil || err2 != nil || end <= begin {
			continue
		}
		// An error leaves them where they are.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(begin), uintptr(end-begin), unix.MADV_DONTNEED)
	}
}
