package netlab

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// threadSpace is the network namespace of the calling thread.
const threadSpace = "/proc/thread-self/ns/net"

// A space is a network namespace without a name. A thread, its keeper, lives
// in it for as long as the space is open.
type space struct {
	fd    int    // of the namespace
	inode uint64 // which is its identity, beside the device of all namespaces
	asks  chan func()
	quit  chan struct{} // closed to end the keeper
	ended chan struct{} // closed when the keeper has ended
}

// newSpace makes a namespace with nothing in it but a loopback card.
func newSpace() (*space, error) {
	s := &space{fd: -1, asks: make(chan func()), quit: make(chan struct{}), ended: make(chan struct{})}
	made := make(chan error)
	go s.keep(made)
	if err := <-made; err != nil {
		return nil, err
	}
	return s, nil
}

// keep is the keeper: it makes the namespace, reports that on made, and then
// starts programs. Its thread is the one whose end kills them, so it must not
// end before, and it ends with this goroutine, which never unlocks it.
func (s *space) keep(made chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The main thread is the process to others, /proc/PID/ns/net for one:
		// it stays where it is while another thread takes the job.
		go s.keep(made)
		<-s.ended
		runtime.UnlockOSThread()
		return
	}
	defer close(s.ended)
	err := s.enter()
	made <- err
	if err != nil {
		return
	}
	for {
		select {
		case ask := <-s.asks:
			ask()
		case <-s.quit:
			return
		}
	}
}

// enter moves the calling thread into a new namespace, which becomes s.
func (s *space) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("%w: a network namespace takes root: %w", ErrUnavailable, err)
		}
		return fmt.Errorf("make network namespace: %w", err)
	}
	fd, err := unix.Open(threadSpace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return errors.Join(fmt.Errorf("identify network namespace: %w", err), unix.Close(fd))
	}
	s.fd, s.inode = fd, st.Ino
	return nil
}

// do calls f on a thread that is in the namespace meanwhile. Goroutines that f
// starts are not.
func (s *space) do(f func() error) error {
	runtime.LockOSThread()
	home, err := unix.Open(threadSpace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Setns(s.fd, unix.CLONE_NEWNET)
	}
	if err != nil {
		unix.Close(home)
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer func() { // also if f ends the goroutine
		if err := unix.Setns(home, unix.CLONE_NEWNET); err != nil {
			panic(fmt.Errorf("leave network namespace: %w", err)) // to go on in a wrong network would be worse
		}
		unix.Close(home)
		runtime.UnlockOSThread()
	}()
	return f()
}

// start starts a program in the namespace. It is killed when this process
// ends.
func (s *space) start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // prctl(2): at the end of the thread that forks, hence the keeper
	result := make(chan error, 1)
	select {
	case s.asks <- func() { result <- cmd.Start() }:
		return <-result
	case <-s.ended:
		return errors.New("the host is closed")
	}
}

// close kills what runs in the namespace and lets go of it: the kernel of the
// machine removes it with its cards.
func (s *space) close() error {
	close(s.quit)
	<-s.ended // after which nothing is started
	return errors.Join(killAll(s.inode), unix.Close(s.fd))
}
