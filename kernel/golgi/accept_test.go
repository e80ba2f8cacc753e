package golgi_test

import (
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

// A lineLog hands on what is logged.
type lineLog chan string

func (l lineLog) Write(b []byte) (int, error) {
	select {
	case l <- string(b):
	default: // the test does not look
	}
	return len(b), nil
}

// Without a descriptor to spare nobody can come in. Later they can.
func TestTheControlSocketOutlivesAFullTableOfDescriptors(t *testing.T) {
	said := make(lineLog, 64)
	g := golgi.New(golgi.Options{Run: "run", Self: newIdentity(t), Home: identity.NewMesh(), Log: slog.New(slog.NewTextHandler(said, nil))})
	defer g.Close()
	path := filepath.Join(t.TempDir(), "c")
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := g.ServeControl(ln); err != nil {
			t.Error(err)
		}
	})
	defer wg.Wait()
	defer ln.Close()
	// The dialling side has its descriptor before there is none.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = 3
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	refused := ""
	for end := time.After(10 * time.Second); err == nil && refused == ""; {
		select {
		case line := <-said:
			if strings.Contains(line, "too many open files") {
				refused = line
			}
		case <-end:
			refused = "nothing"
		}
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err != nil || refused == "nothing" {
		t.Fatalf("connect: %v; logged %q", err, refused)
	}
	ch, err := channel.FromFD(uintptr(fd))
	if err != nil {
		t.Fatal(err)
	}
	m, err := cell.Attach(ch, channel.Hello{})
	if err != nil || m.Name() != sdk.CLIName {
		t.Fatalf("afterwards: got %v, %v", m, err)
	}
	m.Close()
}
