// The cell worker serves load.Worker. It reads requests in place.
package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cellkernel/cellkernel/examples/bench/load"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

type worker struct {
	replica int
	calls   atomic.Uint64
	burning sync.Mutex // one core per replica
}

// Echo implements load.WorkerViews. The reply refers to the request, which
// lives until the reply is encoded.
func (w *worker) Echo(_ context.Context, ping load.PingView, out *load.Ping) error {
	out.ID, out.Payload = ping.ID(), ping.Payload()
	w.calls.Add(1)
	return nil
}

// Work implements load.WorkerViews.
func (w *worker) Work(_ context.Context, job load.JobView, out *load.Result) error {
	out.ID, out.Processed, out.Checksum = job.ID(), job.Iterations(), load.Checksum(job.Payload())
	w.calls.Add(1)
	return nil
}

// Burn implements load.WorkerViews.
func (w *worker) Burn(ctx context.Context, task load.TaskView, out *load.Burnt) error {
	w.burning.Lock()
	defer w.burning.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	micros, err := burn(task.Micros())
	if err != nil {
		return fmt.Errorf("burn %d us: %w", task.Micros(), err)
	}
	out.ID, out.Micros = task.ID(), micros
	w.calls.Add(1)
	return nil
}

// Count implements load.WorkerViews.
func (w *worker) Count(_ context.Context, _ load.QueryView, out *load.Counts) error {
	cpu, err := processCPU()
	if err != nil {
		return err
	}
	out.Replica, out.Calls, out.CPUMicros = uint32(w.replica), w.calls.Load(), cpu
	return nil
}

func main() {
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		load.RegisterWorkerViews(m, &worker{replica: m.Replica()})
		return m.Serve(ctx)
	})
}
