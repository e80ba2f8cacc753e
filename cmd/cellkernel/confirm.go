package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxAnswer bounds what is read as an answer, in bytes.
const maxAnswer = 64

// errNotConfirmed ends a command that somebody has thought better of.
var errNotConfirmed = errors.New("nothing was changed")

// confirm asks the terminal whether something that is hard to take back is
// meant. Without one there is nobody to ask, and no is the answer: what is
// meant then says so by --yes.
func (a *app) confirm(ctx context.Context, what, then string) error {
	f, ok := a.stdin.(*os.File)
	if !ok || !isTerminal(f) {
		return withHint(usage(fmt.Errorf("%s: there is no terminal to ask: %s", what, then)), "--yes says that it is meant")
	}
	fmt.Fprintf(a.stderr, "%s: %s. Go on? [y/N] ", printable(what), printable(then))
	got := make(chan string, 1)
	go func() { // a read that nobody answers ends with the process
		line, _ := bufio.NewReader(io.LimitReader(f, maxAnswer)).ReadString('\n') // what can not be read is no yes
		got <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case s := <-got:
		if s == "y" || s == "yes" {
			return nil
		}
		return fmt.Errorf("%s: %w", what, errNotConfirmed)
	case <-ctx.Done():
		return ctx.Err()
	}
}
