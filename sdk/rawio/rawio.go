//go:build !race

package rawio

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Read receives what is there. It returns [unix.EAGAIN] if that is nothing,
// and 0 without an error at the end of input.
func Read(fd uintptr, b []byte) (int, error) {
	return call(unix.SYS_RECVFROM, fd, b, unix.MSG_DONTWAIT)
}

// Write sends as much as fits into the socket. It returns [unix.EAGAIN] if
// that is nothing.
func Write(fd uintptr, b []byte) (int, error) {
	return call(unix.SYS_SENDTO, fd, b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

func call(trap, fd uintptr, b []byte, flags uintptr) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
