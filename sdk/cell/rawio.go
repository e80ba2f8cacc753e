//go:build !race

package cell

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls of a link do not block: they copy what the socket takes or
// has, which is less than a megabyte. So the scheduler is not told of them. It
// would give the processor of a thread that is in a system call for 20 µs, or
// that the machine does not run meanwhile, to another thread of this process,
// which then competes for what one had done. The price: the garbage collector
// waits for a copy.

// rawRead receives what is there. It returns EAGAIN if that is nothing.
func rawRead(fd uintptr, b []byte) (int, error) {
	return rawCall(unix.SYS_RECVFROM, fd, b, unix.MSG_DONTWAIT)
}

// rawSend sends as much as fits into the socket. It returns EAGAIN if that is nothing.
func rawSend(fd uintptr, b []byte) (int, error) {
	return rawCall(unix.SYS_SENDTO, fd, b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

func rawCall(trap, fd uintptr, b []byte, flags uintptr) (int, error) {
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
