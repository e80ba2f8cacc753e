package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

// callSlack is what a call may take beyond its own deadline: the kernel says
// "deadline passed" better than we could.
const callSlack = 2 * time.Second

func (a *app) callCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "call NAME.METHOD [JSON|@FILE|-]",
		Short: "Call a method of a cell with a JSON message",
		Long: `Call sends one message to a method and prints the reply as one line of JSON. The message is
given as an argument, read from a file (@FILE) or from standard input (-); without one it is {}.
"worker#2.Work" calls one replica; a cell with several services takes "worker.Service.Method".`,
		Example:           "  cellkernel call worker.Work '{\"id\":1}'\n  cellkernel call worker.Work @job.json --timeout 2s",
		Args:              args(1, 2),
		ValidArgsFunction: a.completeMethods,
		RunE: func(cmd *cobra.Command, words []string) error {
			r, err := a.callRequest(words)
			if err != nil {
				return usage(err)
			}
			if timeout <= 0 {
				return usage(fmt.Errorf("read flag --timeout: want a positive duration, got %v", timeout))
			}
			r.Timeout = timeout
			return a.call(cmd.Context(), r)
		},
	}
	a.outputFlag(cmd) // JSON either way: what is written for one command works for all
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "give up after this time")
	return cmd
}

// callRequest parses the arguments of call.
func (a *app) callRequest(words []string) (admin.CallRequest, error) {
	name, method, ok := strings.Cut(words[0], ".")
	if !ok || method == "" {
		return admin.CallRequest{}, fmt.Errorf("call %q: want NAME.METHOD", words[0])
	}
	t, err := admin.ParseTarget(name)
	if err != nil {
		return admin.CallRequest{}, fmt.Errorf("call %q: %w", words[0], err)
	}
	r := admin.CallRequest{Target: t, Method: method, Body: json.RawMessage("{}")}
	if len(words) == 2 {
		if r.Body, err = a.message(words[1]); err != nil {
			return r, err
		}
	}
	var message json.RawMessage
	var bad *json.SyntaxError
	switch err := json.Unmarshal(r.Body, &message); {
	case errors.As(err, &bad):
		return r, fmt.Errorf("call %q: message is not JSON: byte %d: %w", words[0], bad.Offset, err)
	case err != nil:
		return r, fmt.Errorf("call %q: message is not JSON: %w", words[0], err)
	}
	return r, nil
}

// message returns the bytes that a word stands for.
func (a *app) message(word string) ([]byte, error) {
	switch {
	case word == "-":
		return readLimited(a.stdin, "standard input")
	case strings.HasPrefix(word, "@"):
		f, err := os.Open(word[1:])
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return readLimited(f, word[1:])
	}
	return []byte(word), nil
}

func readLimited(r io.Reader, name string) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, admin.MaxMessage+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(b) > admin.MaxMessage {
		return nil, fmt.Errorf("read %s: more than %d bytes", name, admin.MaxMessage)
	}
	return b, nil
}

func (a *app) call(ctx context.Context, r admin.CallRequest) error {
	c, err := a.connectToChange(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, r.Timeout+callSlack)
	defer cancel()
	reply, err := c.Call(ctx, r)
	if sdk.CodeOf(err) == sdk.CodeNotFound {
		return withHint(err, `"cellkernel ps" lists the cells; completion of "call" lists their methods`)
	}
	if sdk.CodeOf(err) == sdk.CodeDeadline { // whoever noticed first says it in words of its own
		return sdk.Errorf(sdk.CodeDeadline, "call %s.%s: deadline passed: no reply within %v", r.Target, r.Method, r.Timeout)
	}
	if err != nil {
		return fmt.Errorf("call %s.%s: %w", r.Target, r.Method, err)
	}
	var line bytes.Buffer
	if err := json.Compact(&line, reply); err != nil {
		return fmt.Errorf("call %s.%s: reply is not JSON: %w", r.Target, r.Method, err)
	}
	line.WriteByte('\n')
	_, err = a.stdout.Write(line.Bytes())
	return err
}
