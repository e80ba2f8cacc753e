package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/config"
	"github.com/cellkernel/cellkernel/kernel/membership"
	"github.com/cellkernel/cellkernel/sdk"
)

// maxCode bounds what is read as an invitation, in bytes.
const maxCode = 8 << 10

type joinFlags struct {
	mesh, node string
	replace    bool
}

func (a *app) joinCommand() *cobra.Command {
	var f joinFlags
	cmd := &cobra.Command{
		Use:   "join",
		Short: "Bring this machine into the mesh of another one",
		Long: `Join reads an invitation from the terminal, where it is not shown, or from standard input; never from
an argument, which others could see. It asks the inviting machine for the secret of the mesh and stores
it in ~/.cell/MESH (CELLKERNEL_HOME moves it). No kernel needs to run here.`,
		Example:           "  cellkernel join\n  ssh first.example cellkernel invite | cellkernel join",
		Args:              args(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.join(cmd.Context(), f) },
	}
	a.outputFlag(cmd)
	cmd.Flags().StringVar(&f.node, "node", "", "name of this node (default: as the genome.toml here says, else host and directory)")
	cmd.Flags().StringVar(&f.mesh, "mesh", "", "what to call the mesh on this machine (default: as the inviter does)")
	cmd.Flags().BoolVar(&f.replace, "replace", false, "replace the secret of a mesh of that name")
	return cmd
}

func (a *app) join(ctx context.Context, f joinFlags) error {
	o, named, err := a.joinOptions(f)
	if err != nil {
		return err
	}
	code, err := a.readSecret(ctx, "invitation: ")
	if err != nil {
		return err
	}
	if o.Self, err = os.Open("/proc/self/exe"); err != nil {
		return fmt.Errorf("open own program: %w", err)
	}
	defer o.Self.Close()
	id, err := membership.Join(ctx, code, o)
	if err != nil {
		return joinHint(err)
	}
	err = a.show(id, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "mesh %s %s, node %s %s\n", printable(id.Mesh), id.MeshID, printable(id.Node), id.NodeID)
		return err
	})
	if err != nil {
		return err
	}
	if named != id.Mesh {
		a.sayMesh(id.Mesh)
	}
	return nil
}

// joinOptions completes the flags. It also returns which mesh the genome.toml
// here names, if there is one.
func (a *app) joinOptions(f joinFlags) (o membership.JoinOptions, named string, err error) {
	node, named, err := a.ownName()
	if err != nil {
		return o, "", err
	}
	if f.node != "" {
		node = f.node
	}
	o = membership.JoinOptions{
		Replace: f.replace, Bundled: bundled,
		Trying: func(addr string) { fmt.Fprintf(a.stderr, "cellkernel: asking at %s\n", printable(addr)) },
	}
	if o.Node, err = sdk.ParseCellName(node); err == nil && f.mesh != "" {
		o.Mesh, err = sdk.ParseCellName(f.mesh)
	}
	if err != nil {
		return o, "", usage(fmt.Errorf("join: %w", err))
	}
	return o, named, nil
}

// ownName is what the node of this directory is called, and its mesh.
func (a *app) ownName() (node, mesh string, err error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", "", err
	}
	if file, err := a.genomeFile(); err == nil && file == "" && manifestAbove(dir) == "" {
		return config.DefaultNode(dir), "", nil
	}
	var p admin.Plan
	if err := a.planFrom(&p, nil); err != nil {
		return "", "", err
	}
	g, _, err := load(p)
	if err != nil {
		return "", "", err
	}
	return g.Kernel.Node, g.Kernel.Mesh, nil
}

func joinHint(err error) error {
	switch {
	case errors.Is(err, fs.ErrExist):
		return withHint(err, `the invitation is still good: "cellkernel join --mesh NAME" keeps both, --replace gives the old one up`)
	case sdk.CodeOf(err) == sdk.CodeInvalid:
		return withHint(err, `"cellkernel invite" on a machine of the mesh prints one line: all of it is needed`)
	case sdk.CodeOf(err) == sdk.CodeDenied && strings.Contains(err.Error(), "refused"):
		return withHint(err, "an invitation is good once, for ten minutes, while the kernel runs that made it: ask for another")
	case sdk.CodeOf(err) == sdk.CodeUnavailable:
		return withHint(err, `"cellkernel invite --address HOST" there names an address that can be reached from here`)
	}
	return err
}

// readSecret reads a line from the terminal without showing it, or all of
// standard input if that is none.
func (a *app) readSecret(ctx context.Context, prompt string) (string, error) {
	type answer struct {
		text string
		err  error
	}
	read := func() (b []byte, err error) { return io.ReadAll(io.LimitReader(a.stdin, maxCode+1)) }
	if f, ok := a.stdin.(*os.File); ok && isTerminal(f) {
		show, err := hideInput(f)
		if err != nil {
			return "", err
		}
		defer show()
		fmt.Fprint(a.stderr, prompt)
		defer fmt.Fprintln(a.stderr) // the line end was not shown either
		read = func() ([]byte, error) {
			b, err := bufio.NewReader(io.LimitReader(f, maxCode+1)).ReadBytes('\n')
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return b, err
		}
	}
	got := make(chan answer, 1)
	go func() { // a read that nobody answers ends with the process
		b, err := read()
		got <- answer{string(b), err}
	}()
	select {
	case s := <-got:
		if s.err == nil && strings.TrimSpace(s.text) == "" {
			s.err = sdk.Errorf(sdk.CodeInvalid, "read invitation: there is none")
		}
		return s.text, s.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// hideInput keeps a terminal from showing what is typed until show is called.
func hideInput(f *os.File) (show func(), err error) {
	fd := int(f.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("hide input: %w", err)
	}
	hidden := *old
	hidden.Lflag = hidden.Lflag&^(unix.ECHO|unix.ECHONL) | unix.ICANON | unix.ISIG
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &hidden); err != nil {
		return nil, fmt.Errorf("hide input: %w", err)
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, old) }, nil
}
