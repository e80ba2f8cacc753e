package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// An app is one run of the command.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	kill           <-chan struct{} // closed by the second interrupt; nil: there is none
	boot           booter
	genome         string // --genome
	output         string // -o
}

func newApp(stdin io.Reader, stdout, stderr io.Writer) *app {
	return &app{stdin: stdin, stdout: stdout, stderr: stderr, boot: bootKernel}
}

// run executes one command line and returns its exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.ExecuteContext(ctx)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errInterrupted
	}
	a.report(err)
	return exitCode(err)
}

// root returns the tree of commands.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "cellkernel",
		Short: "Boot a mesh of cells from one file, and look after it",
		Long: `Cellkernel turns a genome.toml into a running mesh of services, the cells.

Start with "cellkernel init" in an empty directory, then "cellkernel up".`,
		Version:           thisBuild().String(), // gives it the flag --version
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	group(root)
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return withHint(usage(err), "%s", helpHint(cmd))
	})
	root.PersistentFlags().StringVar(&a.genome, "genome", "", "genome.toml, or its directory, whose kernel is meant")
	root.SetHelpCommand(helpCommand(root))
	root.AddCommand(
		a.initCommand(),
		a.upCommand(), a.downCommand(), a.statusCommand(), a.psCommand(), a.logsCommand(),
		a.peersCommand(), a.pingCommand(), a.explainCommand(), a.doctorCommand(),
		a.runCommand(), a.restartCommand(), a.stopCommand(), a.startCommand(), a.scaleCommand(), a.callCommand(),
		a.idCommand(), a.meshCommand(), a.inviteCommand(), a.joinCommand(), a.denyCommand(), a.undenyCommand(),
		a.walletCommand(), a.receiptsCommand(), a.ledgerCommand(),
		a.genCommand(), a.pluginCommand(), a.lighthouseCommand(), a.devstackCommand(), a.configCommand(), a.versionCommand(), a.completionCommand(), a.manCommand(),
	)
	return root
}

// group makes cmd one that only has subcommands: alone it prints its help.
func group(cmd *cobra.Command) {
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		err := usage(fmt.Errorf("run %q: unknown command %q", cmd.CommandPath(), args[0]))
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			return withHint(err, "did you mean %q?", near[0])
		}
		return withHint(err, "%s", helpHint(cmd))
	}
}

func helpHint(cmd *cobra.Command) string {
	return fmt.Sprintf("run %q", cmd.CommandPath()+" --help")
}

// args checks the number of arguments; most < 0 means any number.
func args(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= least && (most < 0 || len(args) <= most) {
			return nil
		}
		want := fmt.Sprintf("%d to %d", least, most)
		switch {
		case most < 0:
			want = fmt.Sprintf("at least %d", least)
		case most == 0:
			want = "none"
		case least == most:
			want = fmt.Sprint(least)
		}
		err := usage(fmt.Errorf("run %q: %d arguments, want %s", cmd.CommandPath(), len(args), want))
		return withHint(err, "usage: %s", cmd.UseLine())
	}
}

// outputFlag gives cmd the flag -o.
func (a *app) outputFlag(cmd *cobra.Command) {
	f := cmd.Flags()
	f.VarP(&choice{value: &a.output, allowed: []string{"text", "json"}}, "output", "o", "format of the output: text or json")
	// The names are constants, so this can not fail.
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

// choice is a flag whose value is one of a few words; the first is the default.
type choice struct {
	value   *string
	allowed []string
}

// String implements pflag.Value.
func (c *choice) String() string {
	if c.value == nil || *c.value == "" {
		return ""
	}
	return *c.value
}

// Set implements pflag.Value.
func (c *choice) Set(s string) error {
	for _, w := range c.allowed {
		if s == w {
			*c.value = s
			return nil
		}
	}
	return fmt.Errorf("want %s", strings.Join(c.allowed, " or "))
}

// Type implements pflag.Value.
func (c *choice) Type() string { return "format" }

// onceMore is how long after a signal the next one is meant as another. What
// comes before is an echo: who sends a signal to a process and to its group,
// as timeout(1) does and a terminal together with whoever passes it on, means
// one.
const onceMore = 500 * time.Millisecond

// signals returns a context that the first SIGINT or SIGTERM cancels and a
// channel that the second closes; a third ends the process where it stands.
// Echoes do not count. The caller calls stop when it no longer wants to know.
func signals(parent context.Context) (ctx context.Context, kill <-chan struct{}, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	second := make(chan struct{})
	sig := make(chan os.Signal, 3)
	signal.Notify(sig, syscall.SIGINT, syscall.SIGTERM)
	var wg sync.WaitGroup
	quit := make(chan struct{})
	wg.Go(func() {
		var last time.Time
		for n := 0; ; {
			var s os.Signal
			select {
			case s = <-sig:
			case <-quit:
				return
			}
			if n > 0 && time.Since(last) < onceMore {
				continue
			}
			n, last = n+1, time.Now()
			switch n {
			case 1:
				cancel(&signalError{s})
			case 2:
				close(second)
			default:
				os.Exit(exitInterrupted)
			}
		}
	})
	return ctx, second, func() {
		signal.Stop(sig)
		close(quit)
		wg.Wait()
		cancel(nil)
	}
}

// A signalError is the cause of a context that a signal cancelled.
type signalError struct{ sig os.Signal }

func (e *signalError) Error() string { return e.sig.String() }

// helpCommand is "help COMMAND" for those who do not think of the flag.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Say what a command does, as --help does", Hidden: true,
		RunE: func(_ *cobra.Command, words []string) error {
			cmd, rest, err := root.Find(words)
			if err == nil && len(rest) > 0 {
				err = fmt.Errorf("show help: unknown command %q", strings.Join(words, " "))
			}
			if err != nil {
				return withHint(usage(err), "%s", helpHint(root))
			}
			return cmd.Help()
		},
	}
}
