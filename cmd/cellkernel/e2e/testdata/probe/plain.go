package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/e2e/testdata/probe/api"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

func nameOf(s string) sdk.CellName { return sdk.CellName(s) }

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

// exit prints lines and ends with a code.
func exit(args []string) error {
	for i := range 30 {
		fmt.Println("line", i+1)
	}
	fmt.Fprintln(os.Stderr, "giving up:", strings.Join(args[1:], " "))
	os.Exit(number(args[0]))
	return nil
}

// listen serves HTTP on an address. Its last argument, if there are two, is a
// file that it writes once it listens.
func listen(args []string) error {
	ln, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	if len(args) > 1 {
		if err := os.WriteFile(args[1], []byte("up"), 0o600); err != nil {
			return err
		}
	}
	srv := http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	return srv.Serve(ln)
}

// flood prints numbered lines as fast as it can, then says how long it took,
// also in a file if that is its second argument, and stays.
func flood(args []string) error {
	begun := time.Now()
	w := bytes.NewBuffer(nil)
	for i := range number(args[0]) {
		fmt.Fprintf(w, "flood %08d %s\n", i, strings.Repeat("x", 80))
		if w.Len() > 32<<10 {
			if _, err := w.WriteTo(os.Stdout); err != nil {
				return err
			}
		}
	}
	if _, err := w.WriteTo(os.Stdout); err != nil {
		return err
	}
	fmt.Println("flooded for", time.Since(begun).Milliseconds(), "ms")
	if len(args) > 1 {
		if err := os.WriteFile(args[1], []byte("through"), 0o600); err != nil {
			return err
		}
	}
	return stay()
}

// junk prints bytes that are no text, and a line of 10 MB.
func junk([]string) error {
	b := make([]byte, 64<<10)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b) // never fails
	for range 4 {
		if _, err := os.Stdout.Write(b); err != nil {
			return err
		}
	}
	fmt.Println("\nlong line follows")
	if _, err := os.Stdout.Write(bytes.Repeat([]byte("0123456789"), 1_000_000)); err != nil {
		return err
	}
	fmt.Println("\njunk ends here")
	return stay()
}

// stay waits for the signal to end.
func stay() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
	return nil
}

// stubborn is a cell that does not want to end, and has a child that left its
// session and does not want to either. It writes the child's id to a file.
func stubborn(args []string) error {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	child := exec.Command(self, "orphan")
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		return err
	}
	if err := os.WriteFile(args[0], []byte(strconv.Itoa(child.Process.Pid)), 0o600); err != nil {
		return err
	}
	cell.Main(func(_ context.Context, m *cell.Membrane) error {
		api.RegisterProbe(m, &probe{m: m})
		m.Ready()
		select {}
	})
	return nil
}

func orphan([]string) error {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	for {
		time.Sleep(time.Hour) // a bare select would be a deadlock to the runtime
	}
}
