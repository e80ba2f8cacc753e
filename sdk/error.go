package sdk

import (
	"context"
	"errors"
	"fmt"
)

// A Code is the kind of failure that callers may branch on. The set is closed
// and the numbers are on the wire: never reorder or reuse one.
type Code uint8

// The codes.
const (
	CodeOK           Code = 0
	CodeInternal     Code = 1  // a bug: a handler panicked, an invariant broke
	CodeInvalid      Code = 2  // the request can never work as it is
	CodeNotFound     Code = 3  // no such cell, method or thing
	CodeDenied       Code = 4  // known, but not allowed
	CodeUnavailable  Code = 5  // nobody can answer now; another try may work
	CodeOverloaded   Code = 6  // the server is at its limit and refused
	CodeDeadline     Code = 7  // the deadline passed
	CodeCancelled    Code = 8  // the caller gave up
	CodeIncompatible Code = 9  // both sides declare the method differently
	CodeTooLarge     Code = 10 // a message is over its limit
	CodeNoATP        Code = 11 // the payer's credit does not cover the work
	CodeFenced       Code = 12 // a ledger writer is behind the stored head
	CodeApplication  Code = 13 // the handler returned an error of its own
)

var codeNames = [...]string{
	"ok", "internal", "invalid", "not_found", "denied", "unavailable", "overloaded",
	"deadline", "cancelled", "incompatible", "too_large", "no_atp", "fenced", "application",
}

// String returns the code's name, as in "not_found".
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("code(%d)", uint8(c))
}

// ParseCode returns the code with the given name. Unknown names are
// [CodeInternal] and false.
func ParseCode(name string) (Code, bool) {
	for c, n := range codeNames {
		if n == name {
			return Code(c), true
		}
	}
	return CodeInternal, false
}

// Executed says whether a failed call was run by a handler. It decides who
// may try again: see [Error.Retryable].
type Executed uint8

// The three answers.
const (
	ExecutedMaybe Executed = 0 // nobody can know, for example: the link broke
	ExecutedNo    Executed = 1 // certainly not
	ExecutedYes   Executed = 2 // certainly
)

// String returns "maybe", "no" or "yes".
func (e Executed) String() string {
	switch e {
	case ExecutedNo:
		return "no"
	case ExecutedYes:
		return "yes"
	}
	return "maybe"
}

// An Error is a failure that keeps its meaning across processes. Errors that
// calls return have this concrete type somewhere in their chain.
type Error struct {
	Code     Code
	Executed Executed
	Text     string // verb, object, cause: `dial quic://10.0.0.2:9000: refused`
}

// Error returns the text, or the code's name where there is none.
func (e *Error) Error() string {
	if e.Text == "" {
		return e.Code.String()
	}
	return e.Text
}

// Is makes errors.Is(err, context.DeadlineExceeded) and context.Canceled hold
// for the codes that mean the same.
func (e *Error) Is(target error) bool {
	return e.Code == CodeDeadline && target == context.DeadlineExceeded ||
		e.Code == CodeCancelled && target == context.Canceled
}

// Retryable reports whether the same call may be sent again: always when it
// was not executed, and for idempotent methods also when nobody knows.
func (e *Error) Retryable(idempotent bool) bool {
	if e.Code != CodeUnavailable && e.Code != CodeOverloaded {
		return false
	}
	return e.Executed == ExecutedNo || idempotent && e.Executed == ExecutedMaybe
}

// Errorf makes an Error with [ExecutedNo], the usual case outside handlers.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Executed: ExecutedNo, Text: fmt.Sprintf(format, args...)}
}

// AsError finds the Error in err's chain. Context errors become their codes;
// anything else is [CodeApplication]. It returns nil for nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	switch {
	case errors.As(err, &e):
		if e.Text == err.Error() {
			return e
		}
		return &Error{Code: e.Code, Executed: e.Executed, Text: err.Error()}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: CodeDeadline, Text: err.Error()}
	case errors.Is(err, context.Canceled):
		return &Error{Code: CodeCancelled, Text: err.Error()}
	}
	return &Error{Code: CodeApplication, Executed: ExecutedYes, Text: err.Error()}
}

// CodeOf returns the code of err: [CodeOK] for nil.
func CodeOf(err error) Code {
	if e := AsError(err); e != nil {
		return e.Code
	}
	return CodeOK
}
