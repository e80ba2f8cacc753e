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
	"time"

	"google.golang.org/grpc/credentials/insecure"
)

// The baselines are served by processes of their own, as the cells are: this
// program, started with -serve. They end when their standard input does.

const (
	baselineWithin = 10 * time.Second // to listen, and to end
	ready          = "ready"          // a line; from another machine, what connects follows
)

// baselines are the other systems.
type baselines struct {
	dir          string
	procs        []*process
	raw          *rawServer
	shared, each *grpcServer
}

// startBaselines starts a gRPC server and a raw one.
func startBaselines(ctx context.Context) (_ *baselines, err error) {
	b := new(baselines)
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if b.dir, err = os.MkdirTemp("", "bench-"); err != nil {
		return nil, fmt.Errorf("start baselines: %w", err)
	}
	for _, name := range []string{serveUnixGRPC, serveUnixRaw} {
		p, err := start(ctx, name, filepath.Join(b.dir, name))
		if err != nil {
			return nil, fmt.Errorf("start baseline %s: %w", name, err)
		}
		b.procs = append(b.procs, p)
	}
	b.raw = &rawServer{filepath.Join(b.dir, "raw")}
	b.shared = &grpcServer{target: "unix:" + filepath.Join(b.dir, "grpc"), creds: insecure.NewCredentials()}
	b.each = b.shared.forEach()
	return b, nil
}

// close ends the servers and waits for them.
func (b *baselines) close() {
	for _, p := range b.procs {
		p.end()
	}
	os.RemoveAll(b.dir)
}

// A process is a baseline that runs.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

// start runs this program as a server and waits until it listens.
func start(ctx context.Context, name, socket string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "-serve", name, "-at", socket)
	cmd.Stderr = os.Stderr
	cmd.WaitDelay = baselineWithin
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd, stdin}
	late := time.AfterFunc(baselineWithin, func() { _ = cmd.Process.Kill() }) // Wait tells
	line, err := bufio.NewReader(io.LimitReader(stdout, 64)).ReadString('\n')
	if late.Stop(); err != nil || line != ready+"\n" {
		p.end()
		return nil, fmt.Errorf("it does not listen: %q, %w", line, errors.Join(err, cmd.Err))
	}
	return p, nil
}

// end asks the process to end, kills it if it does not, and waits.
func (p *process) end() {
	p.stdin.Close()
	late := time.AfterFunc(baselineWithin, func() { _ = p.cmd.Process.Kill() }) // Wait tells
	defer late.Stop()
	_ = p.cmd.Wait() // how it ended does not matter any more
}

// What -serve takes.
const (
	serveUnixGRPC = "grpc"
	serveUnixRaw  = "raw"
	serveTLSGRPC  = "grpc-tcp-tls"
	serveRawQUIC  = "quic-raw"
)

// A listening is a baseline that can be connected to already.
type listening struct {
	serve func() error
	close func() error
	ready string // its first line
}

// listen opens the baseline of that name at a socket's path or host:port.
func listen(name, at string) (*listening, error) {
	switch name {
	case serveUnixGRPC, serveUnixRaw:
		l, err := net.Listen("unix", at)
		if err != nil {
			return nil, err
		}
		serve := func() error { return serveRaw(l) }
		if name == serveUnixGRPC {
			serve = func() error { return serveGRPC(l) }
		}
		return &listening{serve, l.Close, ready}, nil
	case serveTLSGRPC:
		return listenTLS(at)
	case serveRawQUIC:
		return listenQUIC(at)
	}
	return nil, fmt.Errorf("no baseline %q", name)
}

// baselineMain is the main function of a baseline's process.
func baselineMain(name, at string) int {
	b, err := listen(name, at)
	if err == nil {
		_, err = fmt.Println(b.ready)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "serve baseline:", err)
		return 1
	}
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until whoever started us ends
		close(ended)
		b.close()
	}()
	err = b.serve()
	select {
	case <-ended:
		return 0
	default:
		fmt.Fprintln(os.Stderr, "serve baseline:", err)
		return 1
	}
}
