package plugin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin/pluginpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Limits of what a plugin says about itself and its failures, in bytes.
const (
	maxText    = 1024
	maxVersion = 64
	maxOrigin  = 256
	maxHost    = 512
)

// ErrGone is in the chain of every error of a call that ended because the
// plugin's process did.
var ErrGone = errors.New("the plugin process is gone")

// goneError is an unavailable error that [ErrGone] can be found in.
type goneError struct{ cause *sdk.Error }

func (e goneError) Error() string   { return e.cause.Error() }
func (e goneError) Unwrap() []error { return []error{e.cause, ErrGone} }

// clip makes s safe to print on one line, in at most limit bytes.
func clip(s string, limit int) string {
	s = strings.ToValidUTF8(s[:min(len(s), 4*limit)], "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// toStatus turns an author's error into what travels to the kernel.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	e := sdk.AsError(err)
	st := status.New(grpcCode(e.Code), clip(e.Error(), maxText))
	detailed, derr := st.WithDetails(&pluginpb.Failure{
		Code: uint32(e.Code), Executed: uint32(e.Executed), Text: clip(e.Error(), maxText),
	})
	if derr != nil {
		return st.Err()
	}
	return detailed.Err()
}

func grpcCode(c sdk.Code) codes.Code {
	switch c {
	case sdk.CodeInvalid, sdk.CodeTooLarge, sdk.CodeIncompatible:
		return codes.InvalidArgument
	case sdk.CodeNotFound:
		return codes.NotFound
	case sdk.CodeDenied:
		return codes.PermissionDenied
	case sdk.CodeDeadline:
		return codes.DeadlineExceeded
	case sdk.CodeCancelled:
		return codes.Canceled
	case sdk.CodeFenced:
		return codes.Aborted
	case sdk.CodeInternal:
		return codes.Internal
	}
	return codes.Unknown
}

// fromStatus turns what came back from a plugin into an error that names it
// once: "transport(uds): dial uds:///a: connection refused". The codes of
// Failure and of gRPC itself are all it believes; text is clipped.
func (c *Client) fromStatus(ctx context.Context, err error, verb string) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return c.errorf(sdk.CodeOf(err), "%s: %v", verb, err)
	}
	for _, d := range st.Details() {
		f, ok := d.(*pluginpb.Failure)
		if !ok || f.Code == 0 || f.Code > uint32(sdk.CodeApplication) || f.Executed > uint32(sdk.ExecutedYes) {
			continue
		}
		text := strings.TrimPrefix(clip(f.Text, maxText), c.label+": ")
		e := c.errorf(sdk.Code(f.Code), "%s: %s", verb, text)
		e.Executed = sdk.Executed(f.Executed)
		return e
	}
	return c.fromBareStatus(ctx, st, verb)
}

// fromBareStatus is for statuses that gRPC made, or a plugin that does not
// attach a Failure.
func (c *Client) fromBareStatus(ctx context.Context, st *status.Status, verb string) error {
	text := clip(st.Message(), maxText)
	switch st.Code() {
	case codes.Unavailable:
		e := c.errorf(sdk.CodeUnavailable, "%s: the plugin process is gone: %s", verb, text)
		e.Executed = sdk.ExecutedMaybe
		return goneError{e}
	case codes.DeadlineExceeded:
		e := c.errorf(sdk.CodeDeadline, "%s: the plugin did not answer in time", verb)
		e.Executed = sdk.ExecutedMaybe
		return e
	case codes.Canceled:
		e := c.errorf(sdk.CodeCancelled, "%s: %s", verb, text)
		e.Executed = sdk.ExecutedMaybe
		if ctx.Err() == nil { // nobody gave up: the connection was closed under the call
			e.Code = sdk.CodeUnavailable
			return goneError{e}
		}
		return e
	case codes.ResourceExhausted:
		return c.errorf(sdk.CodeTooLarge, "%s: %s", verb, text)
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange:
		return c.errorf(sdk.CodeInvalid, "%s: %s", verb, text)
	case codes.Unimplemented:
		return c.errorf(sdk.CodeIncompatible, "%s: %s", verb, text)
	case codes.NotFound:
		return c.errorf(sdk.CodeNotFound, "%s: %s", verb, text)
	case codes.PermissionDenied:
		return c.errorf(sdk.CodeDenied, "%s: %s", verb, text)
	}
	return c.errorf(sdk.CodeInternal, "%s: %s", verb, text)
}

// errorf makes an error that names the plugin.
func (c *Client) errorf(code sdk.Code, format string, args ...any) *sdk.Error {
	return sdk.Errorf(code, "%s: %s", c.label, fmt.Sprintf(format, args...))
}

// badAnswer reports that the plugin broke its contract.
func (c *Client) badAnswer(verb, format string, args ...any) error {
	return c.errorf(sdk.CodeInternal, "%s: the plugin's answer is wrong: %s", verb, fmt.Sprintf(format, args...))
}
