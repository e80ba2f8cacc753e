package cell

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

// Environment by which a process finds its kernel.
const (
	EnvFD     = "CELLKERNEL_FD"     // number of an inherited channel
	EnvSocket = "CELLKERNEL_SOCKET" // path of the kernel's control socket
	EnvToken  = "CELLKERNEL_TOKEN"  // proof for EnvSocket that the kernel launched this
)

const graceAfterKernel = time.Second // for run to return once the kernel is gone

// Main is the main function of a cell: it attaches to the kernel, calls run,
// and exits the process, with 0 if run returned nil. run's ctx is done when
// the kernel asks the cell to drain, when the process gets SIGTERM or SIGINT,
// or when the kernel is gone; handlers that run have contexts of their own.
//
// A cell that serves registers its services and returns m.Serve(ctx); one that
// only calls others, and is not a job, calls m.Ready.
func Main(run func(ctx context.Context, m *Membrane) error) {
	os.Exit(mainCode(run))
}

func mainCode(run func(ctx context.Context, m *Membrane) error) int {
	m, err := attach()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cell:", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-m.drain:
			cancel(nil)
		case <-m.closed:
			cancel(m.err())
			time.AfterFunc(graceAfterKernel, func() { os.Exit(1) })
		}
	}()
	err = run(ctx, m)
	if err != nil && !(ctx.Err() != nil && errors.Is(err, context.Canceled)) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", m.Name(), err)
		return 1
	}
	if err := m.Close(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", m.Name(), err)
		return 1
	}
	return 0
}

// attach finds the kernel: by the inherited channel, by the socket this
// launch was told, or by the working directory.
func attach() (*Membrane, error) {
	if s := os.Getenv(EnvFD); s != "" {
		os.Unsetenv(EnvFD) // not for children
		fd, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("attach to kernel: %s=%q: want a descriptor", EnvFD, s)
		}
		if ch, err := channel.FromFD(uintptr(fd)); err == nil {
			return Attach(ch, channel.Hello{})
		} else if os.Getenv(EnvSocket) == "" {
			return nil, err
		}
		// Wrappers close descriptors: the socket is the other way.
	}
	path, token := os.Getenv(EnvSocket), os.Getenv(EnvToken)
	os.Unsetenv(EnvToken)
	if path == "" {
		found, err := findSocket()
		if err != nil {
			return nil, err
		}
		path = found
	}
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("attach to kernel: %w", err)
	}
	return Attach(channel.New(conn), channel.Hello{Token: token})
}

// findSocket looks for a running kernel from the working directory upward.
func findSocket() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("attach to kernel: %w", err)
	}
	for {
		path := filepath.Join(dir, ".cell", "run", "control.sock")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", sdk.Errorf(sdk.CodeUnavailable, "attach to kernel: no kernel runs here: start this cell with cellkernel up or cellkernel run")
		}
		dir = up
	}
}
