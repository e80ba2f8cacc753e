package gentest_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/internal/gen/gentest"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/cell/celltest"
)

// cook implements gentest.Kitchen, plainly.
type cook struct{}

func (cook) Cook(_ context.Context, job *gentest.Job) (*gentest.Dish, error) {
	if job.Name == "burnt" {
		return nil, errors.New("cook: burnt")
	}
	return &gentest.Dish{ID: job.ID, Jobs: []gentest.Job{*job}}, nil
}

func (cook) Taste(context.Context, *gentest.Dish) (*gentest.Nothing, error) { return nil, nil }

func (cook) Watch(_ context.Context, job *gentest.Job, out cell.Sender[gentest.Dish]) error {
	for i := range job.Iterations {
		if err := out.Send(&gentest.Dish{ID: uint64(i)}); err != nil {
			return err
		}
	}
	return nil
}

func (cook) Collect(_ context.Context, in cell.Receiver[gentest.Job]) (*gentest.Dish, error) {
	dish := new(gentest.Dish)
	for {
		job, err := in.Recv()
		if err == io.EOF {
			return dish, nil
		}
		if err != nil {
			return nil, err
		}
		dish.Sum += job.ID
	}
}

func (cook) Talk(_ context.Context, in cell.Receiver[gentest.Job], out cell.Sender[gentest.Dish]) error {
	for {
		job, err := in.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := out.Send(&gentest.Dish{ID: job.ID}); err != nil {
			return err
		}
	}
}

// viewer implements gentest.KitchenViews: the same, in place.
type viewer struct{}

func (viewer) Cook(_ context.Context, job gentest.JobView, out *gentest.Dish) error {
	if out.ID != 0 || out.Jobs != nil {
		return errors.New("cook: the reply is not zeroed")
	}
	if job.Name() == "burnt" {
		out.ID = 1
		return errors.New("cook: burnt")
	}
	out.ID, out.Sum = job.ID(), uint64(len(job.Data()))
	out.Jobs = make([]gentest.Job, 1)
	job.Unpack(&out.Jobs[0])
	return nil
}

// Taste makes no garbage, so that what is left is the sdk's.
func (viewer) Taste(context.Context, gentest.DishView, *gentest.Nothing) error { return nil }

func (viewer) Watch(ctx context.Context, job gentest.JobView, out cell.Sender[gentest.Dish]) error {
	return cook{}.Watch(ctx, &gentest.Job{Iterations: job.Iterations()}, out)
}

func (viewer) Collect(_ context.Context, in gentest.JobLeases, out *gentest.Dish) error {
	for {
		job, err := in.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		out.Sum += job.ID()
		job.Release()
	}
}

func (viewer) Talk(_ context.Context, in gentest.JobLeases, out cell.Sender[gentest.Dish]) error {
	for {
		job, err := in.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		err = out.Send(&gentest.Dish{ID: job.ID()})
		job.Release()
		if err != nil {
			return err
		}
	}
}

// eachForm runs a test against both forms of the service.
func eachForm(t *testing.T, f func(t *testing.T, ctx context.Context, c gentest.KitchenClient)) {
	for name, register := range map[string]func(*cell.Membrane){
		"plain": func(m *cell.Membrane) { gentest.RegisterKitchen(m, cook{}) },
		"views": func(m *cell.Membrane) { gentest.RegisterKitchenViews(m, viewer{}) },
	} {
		t.Run(name, func(t *testing.T) {
			k := celltest.New(t)
			k.Serve("kitchen", register)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			f(t, ctx, gentest.NewKitchenClient(k.Synapse("kitchen")))
		})
	}
}

func TestUnary(t *testing.T) {
	eachForm(t, func(t *testing.T, ctx context.Context, c gentest.KitchenClient) {
		for range 3 { // replies are reused
			dish, err := c.Cook(ctx, &gentest.Job{ID: 5, Name: "soup", Data: make([]byte, 70_000)})
			if err != nil || dish.ID != 5 || len(dish.Jobs) != 1 || dish.Jobs[0].Name != "soup" || len(dish.Jobs[0].Data) != 70_000 {
				t.Fatalf("got %+v, %v", dish, err)
			}
			_, err = c.Cook(ctx, &gentest.Job{Name: "burnt"})
			if e := sdk.AsError(err); e == nil || e.Code != sdk.CodeApplication || e.Executed != sdk.ExecutedYes {
				t.Fatalf("got %v, want the handler's error", err)
			}
		}
		lease, err := c.CookView(ctx, &gentest.Job{ID: 6, Name: "stew"})
		if err != nil || lease.ID() != 6 || lease.Jobs().At(0).Name() != "stew" {
			t.Fatalf("got %v", err)
		}
		lease.Release()
		if n, err := c.Taste(ctx, nil); err != nil || n == nil {
			t.Errorf("nil request and reply: %v, %v", n, err)
		}
	})
}

func TestServerStream(t *testing.T) {
	eachForm(t, func(t *testing.T, ctx context.Context, c gentest.KitchenClient) {
		s, err := c.Watch(ctx, &gentest.Job{Iterations: 50})
		if err != nil {
			t.Fatal(err)
		}
		n := uint64(0)
		for dish, err := range s.All() {
			if err != nil || dish.ID != n {
				t.Fatalf("message %d: %+v, %v", n, dish, err)
			}
			n++
		}
		leases, err := c.WatchView(ctx, &gentest.Job{Iterations: 2})
		if err != nil {
			t.Fatal(err)
		}
		for i := range uint64(2) {
			dish, err := leases.Recv()
			if err != nil || dish.ID() != i {
				t.Fatalf("lease %d: %v", i, err)
			}
			dish.Release()
		}
		if _, err := leases.Recv(); n != 50 || err != io.EOF {
			t.Errorf("%d messages, then %v", n, err)
		}
		if err := leases.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestClientStreams(t *testing.T) {
	eachForm(t, func(t *testing.T, ctx context.Context, c gentest.KitchenClient) {
		out, err := c.Collect(ctx)
		if err != nil {
			t.Fatal(err)
		}
		talk, err := c.Talk(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for i := range uint64(20) {
			if err := out.Send(&gentest.Job{ID: i}); err != nil {
				t.Fatal(err)
			}
			if err := talk.Send(&gentest.Job{ID: i}); err != nil {
				t.Fatal(err)
			}
			if dish, err := talk.Recv(); err != nil || dish.ID != i {
				t.Fatalf("talk %d: %+v, %v", i, dish, err)
			}
		}
		if dish, err := out.CloseAndRecv(); err != nil || dish.Sum != 190 {
			t.Errorf("collect: %+v, %v", dish, err)
		}
		if err := talk.CloseSend(); err != nil {
			t.Error(err)
		}
		if _, err := talk.Recv(); err != io.EOF {
			t.Errorf("talk: %v, want the end", err)
		}
	})
}

func TestCyclicRequest(t *testing.T) {
	k := celltest.New(t)
	k.Serve("pantry", func(m *cell.Membrane) { gentest.RegisterPantry(m, pantry{}) })
	c := gentest.NewPantryClient(k.Synapse("pantry"))
	loop := new(gentest.Tree)
	loop.Left = loop
	if _, err := c.Grow(t.Context(), loop); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("got %v, want invalid", err)
	}
	tree, err := c.Grow(t.Context(), &gentest.Tree{Name: "t"})
	if err != nil || tree.Left.Name != "t" {
		t.Errorf("got %+v, %v", tree, err)
	}
}

type pantry struct{}

func (pantry) Store(context.Context, *gentest.Everything) (*gentest.Job, error) {
	return &gentest.Job{}, nil
}

func (pantry) Grow(_ context.Context, t *gentest.Tree) (*gentest.Tree, error) {
	return &gentest.Tree{Left: t}, nil
}
