package settle

import (
	"context"
	"crypto/rand"
	"io"
	"time"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/sdk"
)

// A slip is a message that came, or why none will come any more.
type slip struct {
	m   books.Message
	err error
}

func newNonce() (n [32]byte) {
	rand.Read(n[:]) // never fails: see package crypto/rand
	return n
}

// receive reads a stream until it ends, which closes the channel, or ctx does.
// The other side waits when few messages are not read.
func receive(ctx context.Context, stream Stream) <-chan slip {
	slips := make(chan slip, slipsAhead)
	go func() { // ends with the stream, which ends with ctx
		defer close(slips)
		for {
			var out slip
			in, err := stream.Recv()
			switch {
			case err == io.EOF:
				return
			case err != nil:
				out.err = err
			default:
				out.m, out.err = books.ParseMessage(in.Body)
			}
			select {
			case slips <- out:
			case <-ctx.Done():
				return
			}
			if out.err != nil {
				return
			}
		}
	}()
	return slips
}

// next waits for one message.
func next(ctx context.Context, slips <-chan slip, within time.Duration) (books.Message, error) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case in, ok := <-slips:
		if !ok {
			return nil, sdk.Errorf(sdk.CodeUnavailable, "the other side has ended the session")
		}
		return in.m, in.err
	case <-timer.C:
		return nil, sdk.Errorf(sdk.CodeDeadline, "the other side said nothing for %s", within)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func firstHello(ctx context.Context, slips <-chan slip) (books.Hello, error) {
	m, err := next(ctx, slips, helloWait)
	if err != nil {
		return books.Hello{}, err
	}
	h, ok := m.(books.Hello)
	if !ok {
		return h, sdk.Errorf(sdk.CodeInvalid, "a payer began with %T", m)
	}
	return h, nil
}
