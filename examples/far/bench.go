package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const serverWithin = 10 * time.Second // to listen, and to end

// bench measures calls from a cell of one machine to one of the other.
func bench(ctx context.Context, s *stage, args []string) error {
	args, err := absolute(args)
	if err != nil {
		return err
	}
	if err := s.build(ctx, "examples/bench/coordinator", "examples/bench/worker"); err != nil {
		return err
	}
	for _, name := range []string{"grpc-tcp-tls", "quic-raw"} {
		v, err := s.serve(ctx, s.far, name)
		if err != nil {
			return err
		}
		flag := map[string]string{"grpc-tcp-tls": "-far-grpc", "quic-raw": "-far-quic"}[name]
		args = append(args, flag, v.said)
	}
	far, err := s.boot(s.far, fmt.Sprintf("[cells.echo]\ncommand = [%q]\nlisten  = true\n", s.bin("worker")), nil, nil)
	if err != nil {
		return err
	}
	if err := far.await(ctx); err != nil {
		return err
	}
	near, err := s.boot(s.near, fmt.Sprintf("[workspace]\nmain = \"coordinator\"\n\n[cells.coordinator]\ncommand = [%q]\nargs    = %s\njob     = true\naxons   = { echo = %q }\n",
		s.bin("coordinator"), quoted(args...), s.far.axon("echo")), os.Stdout, os.Stderr)
	if err != nil {
		return err
	}
	return near.end(ctx)
}

// absolute makes the file of --json one that means the same in every directory.
func absolute(args []string) ([]string, error) {
	args = append([]string(nil), args...)
	for i, a := range args {
		if name := strings.TrimLeft(a, "-"); name == "json" && i+1 < len(args) {
			path, err := filepath.Abs(args[i+1])
			if err != nil {
				return nil, err
			}
			args[i+1] = path
		}
	}
	return args, nil
}

// A server is one of the other systems, which runs on a machine.
type server struct {
	cmd   *exec.Cmd
	stdin io.Closer
	said  string // where it listens and how it is known
}

// serve starts the bench's coordinator as a server and waits until it listens.
func (s *stage) serve(ctx context.Context, on machine, name string) (*server, error) {
	cmd := exec.Command(s.bin("coordinator"), "-serve", name, "-at", net.JoinHostPort(on.ip, "0"))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := on.start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	v := &server{cmd: cmd, stdin: stdin}
	s.servers = append(s.servers, v)
	late := time.AfterFunc(serverWithin, func() { _ = cmd.Process.Kill() }) // the read tells
	defer late.Stop()
	line, err := bufio.NewReader(io.LimitReader(stdout, 256)).ReadString('\n')
	said, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if err != nil || !ok {
		return nil, errors.Join(fmt.Errorf("start %s: it does not listen: %q", name, line), err, ctx.Err())
	}
	v.said = said
	return v, nil
}

// end has the server end and waits.
func (v *server) end() {
	v.stdin.Close()
	late := time.AfterFunc(serverWithin, func() { _ = v.cmd.Process.Kill() }) // Wait tells
	defer late.Stop()
	_ = v.cmd.Wait() // how it ended does not matter any more
}
