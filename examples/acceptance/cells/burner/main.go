// The cell burner answers who wants CPU to be used. Started with -alone it
// uses a core for ten seconds by itself, and says what it has used in the end.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cellkernel/cellkernel/examples/acceptance/meterprobe"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

const alone = 10 * time.Second

type burner struct{}

// Burn implements meterprobe.Burner.
func (burner) Burn(ctx context.Context, job *meterprobe.Job) (*meterprobe.Done, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	end := meterprobe.CPU(unix.RUSAGE_THREAD) + time.Duration(job.MS)*time.Millisecond
	for meterprobe.CPU(unix.RUSAGE_THREAD) < end {
		for range 10_000 {
		}
	}
	return &meterprobe.Done{}, ctx.Err()
}

// Spin implements meterprobe.Burner.
func (burner) Spin(_ context.Context, job *meterprobe.Job) (*meterprobe.Done, error) {
	meterprobe.Spin(time.Duration(job.MS) * time.Millisecond)
	return &meterprobe.Done{}, nil
}

// Sleep implements meterprobe.Burner.
func (burner) Sleep(_ context.Context, job *meterprobe.Job) (*meterprobe.Done, error) {
	time.Sleep(time.Duration(job.MS) * time.Millisecond)
	return &meterprobe.Done{}, nil
}

// Hold implements meterprobe.Burner.
func (burner) Hold(_ context.Context, jobs cell.Receiver[meterprobe.Job]) (*meterprobe.Done, error) {
	for {
		if _, err := jobs.Recv(); err == io.EOF {
			return &meterprobe.Done{}, nil
		} else if err != nil {
			return nil, err
		}
	}
}

func main() {
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		if slices.Contains(os.Args, "-alone") {
			meterprobe.Spin(alone)
			fmt.Printf("used %d us\n", meterprobe.CPU(unix.RUSAGE_SELF).Microseconds())
			return nil
		}
		meterprobe.RegisterBurner(m, burner{})
		return m.Serve(ctx)
	})
}
