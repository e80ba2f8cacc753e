//go:build race

package rawio

import "golang.org/x/sys/unix"

// The race detector learns from these that what came before a write is done
// when its bytes are read. With those of rawio.go it would find races in tests
// whose two sides share a process.

// Read receives what is there, as without the race detector.
func Read(fd uintptr, b []byte) (int, error) {
	n, err := unix.Read(int(fd), b) // the socket does not block
	return max(n, 0), err
}

// Write sends as much as fits into the socket, as without the race detector.
func Write(fd uintptr, b []byte) (int, error) {
	n, err := unix.Write(int(fd), b)
	return max(n, 0), err
}
