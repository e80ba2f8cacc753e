// Command far shows what two machines of one mesh do together, on one machine:
//
//	go run ./examples/far bench    # calls between them, beside gRPC and QUIC alone
//	go run ./examples/far mesh     # fifty processes, half of them on each, that talk
//
// Root gets two hosts of a network lab (package netlab): each has addresses, a
// network card and a multicast of its own. Everybody else gets two loopback
// addresses, between which nodes are not found but configured. Which of the
// two it is, is said on standard error. The mesh is made for the run and
// deleted after it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

const usage = `usage: far [--loopback] bench [arguments of its coordinator] | mesh [arguments of its observer]
`

func main() {
	loopback := flag.Bool("loopback", false, "use loopback addresses even where there could be a lab")
	flag.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	flag.Parse()
	acts := map[string]act{"bench": bench, "mesh": mesh}
	run := acts[flag.Arg(0)]
	if run == nil {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := play(ctx, run, *loopback, flag.Args()[1:]); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "far:", err)
		os.Exit(1)
	}
}

// An act is one of the things far shows.
type act func(ctx context.Context, s *stage, args []string) error

// play sets the stage, acts, and clears up.
func play(ctx context.Context, run act, loopback bool, args []string) (err error) {
	s, err := setStage(ctx, loopback)
	if err != nil {
		return err
	}
	defer func() {
		if e := s.close(); err == nil {
			err = e
		}
	}()
	fmt.Fprintf(os.Stderr, "two machines: %s\n", s.what)
	return run(ctx, s, args)
}

// quoted is a list as genomes and JSON write it.
func quoted(list ...string) string {
	var b strings.Builder
	for i, v := range list {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", v)
	}
	return "[" + b.String() + "]"
}
