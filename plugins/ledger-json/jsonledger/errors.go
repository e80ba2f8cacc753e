package jsonledger

import (
	"fmt"

	"github.com/cellkernel/cellkernel/sdk"
)

// A DamageError says where a book is not what was written. Nothing was changed.
type DamageError struct {
	File   string
	Offset int64  // of the first byte that can not be believed
	Seq    uint64 // of the last record before it
	Cause  string
}

// Error says all of it.
func (e *DamageError) Error() string {
	return fmt.Sprintf("the book is damaged: %s: byte %d, behind record %d: %s", e.File, e.Offset, e.Seq, e.Cause)
}

// Unwrap gives the error its code, [sdk.CodeInternal].
func (e *DamageError) Unwrap() error { return &sdk.Error{Code: sdk.CodeInternal, Text: e.Cause} }

// A PoisonError is the answer to everything since the disk refused to make
// something durable. What it had taken before may be lost without another
// error (Rebello et al., "Can Applications Recover from fsync Failures?", ATC
// 2020), so only a new start, which writes the tail again, ends it.
type PoisonError struct{ Cause error }

// Error says what happened and what helps.
func (e *PoisonError) Error() string {
	return fmt.Sprintf("the book takes nothing until the plugin is restarted: %v", e.Cause)
}

// Unwrap gives the error its code, [sdk.CodeUnavailable], and its cause.
func (e *PoisonError) Unwrap() []error {
	return []error{&sdk.Error{Code: sdk.CodeUnavailable, Text: "poisoned"}, e.Cause}
}

// unavailable is an error of the disk that may pass.
func unavailable(verb string, err error) error {
	return fmt.Errorf("%s: %w: %w", verb, &sdk.Error{Code: sdk.CodeUnavailable, Text: "nothing was stored"}, err)
}
