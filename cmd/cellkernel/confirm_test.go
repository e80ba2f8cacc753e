package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal opens a pseudo terminal and returns both ends.
func terminal(t *testing.T) (keys, screen *os.File) {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo terminal: %v", err)
	}
	t.Cleanup(func() { keys.Close() })
	if err := unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if screen, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	return keys, screen
}

func TestWhatIsHardToTakeBackIsAsked(t *testing.T) {
	for answer, want := range map[string]error{"y\n": nil, "YES\n": nil, "\n": errNotConfirmed, "n\n": errNotConfirmed, "yesterday\n": errNotConfirmed} {
		keys, screen := terminal(t)
		if _, err := keys.WriteString(answer); err != nil {
			t.Fatal(err)
		}
		var asked bytes.Buffer
		err := newApp(screen, nil, &asked).confirm(t.Context(), "rotate mesh \"home\"", "all are out")
		if !errors.Is(err, want) || asked.String() != "rotate mesh \"home\": all are out. Go on? [y/N] " {
			t.Errorf("%q: got %v, want %v; asked %q", answer, err, want, asked.String())
		}
		if err != nil && (exitCode(err) != exitFailed || !strings.HasPrefix(err.Error(), "rotate mesh")) {
			t.Errorf("%q: ends with %d, %v", answer, exitCode(err), err)
		}
	}
	err := newApp(strings.NewReader("yes\n"), nil, &bytes.Buffer{}).confirm(t.Context(), "rotate", "all are out")
	if exitCode(err) != exitUsage || hintFor(err) == "" {
		t.Errorf("without a terminal: got %v", err)
	}
}
