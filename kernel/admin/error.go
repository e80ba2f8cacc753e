package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/cellkernel/cellkernel/sdk"
)

// wireError is an error as JSON.
type wireError struct {
	Code     string `json:"code"`
	Executed string `json:"executed"`
	Text     string `json:"text"`
	Cause    Cause  `json:"cause,omitempty"`
}

// A Cause says what is in the way where the code alone does not: for callers
// who know a way around it. Most failures have none.
type Cause string

const (
	CauseUncovered    Cause = "uncovered"     // nodes in use would be seen by no discovery any more: force ends it nevertheless
	CauseNoNetwork    Cause = "no-network"    // none of the cells here listens for other machines or calls them
	CauseNotListening Cause = "not-listening" // none of the cells of the other node listens for other machines
	CauseKeptOut      Cause = "kept-out"      // the other node is on the deny list here
)

// WithCause returns err, of which [CauseOf] says c on either side of the socket.
func WithCause(err error, c Cause) error {
	if err == nil {
		return nil
	}
	return &causedError{err, c}
}

// CauseOf returns what is in the way: "" if nobody said.
func CauseOf(err error) Cause {
	var c *causedError
	if errors.As(err, &c) {
		return c.cause
	}
	return ""
}

type causedError struct {
	error
	cause Cause
}

func (e *causedError) Unwrap() error { return e.error }

// errorBody is the body of every failed request.
type errorBody struct {
	Error *wireError `json:"error,omitempty"`
}

// typed returns err with a code. Unlike [sdk.AsError] it takes an error of
// unknown type for the kernel's own failure, not for a handler's.
func typed(err error) *sdk.Error {
	var e *sdk.Error
	if errors.As(err, &e) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return sdk.AsError(err)
	}
	return &sdk.Error{Code: sdk.CodeInternal, Text: err.Error()}
}

// encodeError returns the body that says err.
func encodeError(err error) []byte {
	e := typed(err)
	b, _ := json.Marshal(errorBody{&wireError{ // strings always marshal
		Code: e.Code.String(), Executed: e.Executed.String(), Text: e.Error(), Cause: CauseOf(err),
	}})
	return b
}

// decode returns the error that w says; a code this side does not know is
// internal.
func (w *wireError) decode() error {
	code, _ := sdk.ParseCode(w.Code)
	e := &sdk.Error{Code: code, Text: w.Text}
	switch w.Executed {
	case sdk.ExecutedNo.String():
		e.Executed = sdk.ExecutedNo
	case sdk.ExecutedYes.String():
		e.Executed = sdk.ExecutedYes
	}
	if w.Cause != "" {
		return WithCause(e, w.Cause)
	}
	return e
}

// httpStatus returns the status that is closest to code, for people with curl.
func httpStatus(code sdk.Code) int {
	switch code {
	case sdk.CodeInvalid, sdk.CodeIncompatible:
		return http.StatusBadRequest
	case sdk.CodeNotFound:
		return http.StatusNotFound
	case sdk.CodeDenied:
		return http.StatusForbidden
	case sdk.CodeUnavailable:
		return http.StatusServiceUnavailable
	case sdk.CodeOverloaded:
		return http.StatusTooManyRequests
	case sdk.CodeDeadline, sdk.CodeCancelled:
		return http.StatusGatewayTimeout
	case sdk.CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case sdk.CodeNoATP:
		return http.StatusPaymentRequired
	case sdk.CodeApplication:
		return http.StatusUnprocessableEntity
	}
	return http.StatusInternalServerError
}
