package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/cellkernel/cellkernel/examples/bench/grpcbase"
	"github.com/cellkernel/cellkernel/examples/bench/load"
)

// grpcWorker answers like the cells do.
type grpcWorker struct {
	grpcbase.UnimplementedWorkerServer
	calls atomic.Uint64
}

// Echo implements grpcbase.WorkerServer.
func (w *grpcWorker) Echo(_ context.Context, ping *grpcbase.Ping) (*grpcbase.Ping, error) {
	w.calls.Add(1)
	return &grpcbase.Ping{Id: ping.Id, Payload: ping.Payload}, nil
}

// Work implements grpcbase.WorkerServer.
func (w *grpcWorker) Work(_ context.Context, job *grpcbase.Job) (*grpcbase.Result, error) {
	w.calls.Add(1)
	return &grpcbase.Result{Id: job.Id, Processed: job.Iterations, Checksum: load.Checksum(job.Payload)}, nil
}

// Count implements grpcbase.WorkerServer.
func (w *grpcWorker) Count(context.Context, *grpcbase.Query) (*grpcbase.Counts, error) {
	return &grpcbase.Counts{Calls: w.calls.Load()}, nil
}

// serveGRPC serves until l is closed; all options that are not given are the defaults.
func serveGRPC(l net.Listener, options ...grpc.ServerOption) error {
	s := grpc.NewServer(options...)
	grpcbase.RegisterWorkerServer(s, new(grpcWorker))
	return s.Serve(l)
}

// grpcServer is the gRPC server as the callers see it.
type grpcServer struct {
	target string
	creds  credentials.TransportCredentials
	each   bool // a connection for each caller, not one for all
}

// forEach is the same server with a connection for each caller.
func (g *grpcServer) forEach() *grpcServer { return &grpcServer{g.target, g.creds, true} }

func (g *grpcServer) dial() (*grpc.ClientConn, error) {
	c, err := grpc.NewClient(g.target, grpc.WithTransportCredentials(g.creds))
	if err != nil {
		return nil, fmt.Errorf("dial gRPC server: %w", err)
	}
	return c, nil
}

// count implements server.
func (g *grpcServer) count(ctx context.Context) (uint64, error) {
	c, err := g.dial()
	if err != nil {
		return 0, err
	}
	defer c.Close()
	n, err := grpcbase.NewWorkerClient(c).Count(ctx, &grpcbase.Query{})
	if err != nil {
		return 0, fmt.Errorf("count calls of gRPC: %w", err)
	}
	return n.Calls, nil
}

// open implements server.
func (g *grpcServer) open(_ context.Context, w workload) (cs []caller, _ func(), err error) {
	var conns []*grpc.ClientConn
	closeAll := func() {
		for _, c := range conns {
			c.Close()
		}
	}
	for i := range w.inFlight {
		if g.each || i == 0 {
			c, err := g.dial()
			if err != nil {
				closeAll()
				return nil, nil, err
			}
			conns = append(conns, c)
		}
		client := grpcbase.NewWorkerClient(conns[len(conns)-1])
		call := grpcEcho(client, uint64(i)<<32, sevens(w.payload))
		if w.kind == work {
			call = grpcWork(client, uint64(i)<<32, sevens(w.payload))
		}
		cs = append(cs, caller{call, 1})
	}
	return cs, closeAll, nil
}

func grpcEcho(client grpcbase.WorkerClient, id uint64, payload []byte) func(context.Context) error {
	ping := &grpcbase.Ping{Id: id, Payload: payload}
	return func(ctx context.Context) error {
		ping.Id++
		reply, err := client.Echo(ctx, ping)
		if err != nil {
			return err
		}
		if reply.Id != ping.Id || !bytes.Equal(reply.Payload, ping.Payload) {
			return errReply
		}
		return nil
	}
}

func grpcWork(client grpcbase.WorkerClient, id uint64, payload []byte) func(context.Context) error {
	job := &grpcbase.Job{Id: id, Iterations: iterations, Payload: payload}
	want := load.Checksum(payload)
	return func(ctx context.Context) error {
		job.Id++
		reply, err := client.Work(ctx, job)
		if err != nil {
			return err
		}
		if reply.Id != job.Id || reply.Processed != iterations || reply.Checksum != want {
			return errReply
		}
		return nil
	}
}
