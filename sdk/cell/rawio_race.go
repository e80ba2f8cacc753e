//go:build race

package cell

import "golang.org/x/sys/unix"

// The race detector learns from these that what came before a write is done
// when its bytes are read. With those of rawio.go it would find races in tests
// whose cells share a process.

func rawRead(fd uintptr, b []byte) (int, error) {
	n, err := unix.Read(int(fd), b) // the socket does not block
	return max(n, 0), err
}

func rawSend(fd uintptr, b []byte) (int, error) {
	n, err := unix.Write(int(fd), b)
	return max(n, 0), err
}
