package network

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openAddresses subscribes to changes of this machine's addresses (rtnetlink(7)).
func openAddresses() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("watch addresses: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch addresses: %w", err)
	}
	return os.NewFile(uintptr(fd), "rtnetlink"), nil
}

// watchAddresses calls changed whenever this machine gets or loses an address,
// until ctx is done, and closes f. What it is told it does not read: that there
// was something is all, and if messages were lost there was.
func watchAddresses(ctx context.Context, f *os.File, changed func()) error {
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })()
	buf := make([]byte, 8<<10)
	for {
		_, err := f.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !errors.Is(err, unix.ENOBUFS):
			return fmt.Errorf("watch addresses: %w", err)
		}
		changed()
	}
}
