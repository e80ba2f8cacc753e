package netlab

import (
	"errors"
	"os/exec"
)

// A T is what of a test a lab uses; *testing.T and *testing.B are.
type T interface {
	Helper()
	Cleanup(f func())
	Skip(args ...any)
	Fatal(args ...any)
	Error(args ...any)
}

// New is Open for a test: it skips the test, with the reason, where there can
// be no lab, and closes the lab when the test ends.
func New(t T) *Lab {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip(errors.Join(ErrUnavailable, err))
	}
	l, err := Open()
	if errors.Is(err, ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}
