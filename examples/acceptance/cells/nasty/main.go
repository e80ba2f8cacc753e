// The cell nasty does all it can to outlive its kernel: it and its children
// ignore SIGTERM, and the children run in sessions of their own, one of them
// without anything in its environment.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

const child = "-child"

func main() {
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
	if len(os.Args) == 1 {
		if err := fork(os.Environ()); err != nil {
			fail(err)
		}
		if err := fork([]string{}); err != nil {
			fail(err)
		}
	}
	never := make(chan os.Signal, 1)
	signal.Notify(never, syscall.SIGUSR2)
	<-never // until it is killed
}

// fork starts a child that nobody waits for.
func fork(env []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, child)
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release()
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "nasty:", err)
	os.Exit(1)
}
