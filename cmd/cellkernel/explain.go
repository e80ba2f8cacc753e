package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

// explainLimit bounds an explanation: every address is really tried.
const explainLimit = 20 * time.Second

func (a *app) explainCommand() *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   "explain NAME[.METHOD]",
		Short: "Say how a cell is found and reached, or why not",
		Long: `Explain follows a name as a call would: which rule allows it, who serves the cell and who said so, and
what became of every address, each of which is dialled and asked. Then it looks for the method and measures
a round trip. NAME is a cell, or with --from what that cell calls it; "golgi@NODE" is the kernel of a node.
It ends with what a call would end with: 4 if there is no such cell or method, 5 if nobody answers, 6 if
it is not allowed.`,
		Example:           "  cellkernel explain store\n  cellkernel explain store.Put --from shop",
		Args:              args(1, 1),
		ValidArgsFunction: a.completeMethods,
		RunE: func(cmd *cobra.Command, words []string) error {
			q, err := explainQuery(words[0], from)
			if err != nil {
				return usage(err)
			}
			return a.explain(cmd, q)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the cell that calls (default: the command line, which may call everything)")
	_ = cmd.RegisterFlagCompletionFunc("from", a.completeCells) // exists: it was defined in the line before
	a.outputFlag(cmd)
	return cmd
}

// explainQuery parses "store.Put"; the dots of an address belong to it.
func explainQuery(word, from string) (admin.ExplainQuery, error) {
	q := admin.ExplainQuery{From: sdk.CellName(from)}
	name, at, far := strings.Cut(word, "@")
	method := ""
	if !far {
		name, method, _ = strings.Cut(name, ".")
		if strings.HasSuffix(word, ".") {
			return q, fmt.Errorf("explain %q: want a method behind the dot", word)
		}
	}
	cell, err := sdk.ParseCellName(name)
	if err == nil && from != "" {
		_, err = sdk.ParseCellName(from)
	}
	if err != nil {
		return q, fmt.Errorf("explain %q: %w", word, err)
	}
	if q.Cell, q.Method = cell, method; far {
		q.Cell = sdk.CellName(string(cell) + "@" + at)
	}
	return q, nil
}

func (a *app) explain(cmd *cobra.Command, q admin.ExplainQuery) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), explainLimit)
	defer cancel()
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	e, err := c.Explain(ctx, q)
	if err != nil {
		return withCellHint(err)
	}
	if err := a.show(e, func(w io.Writer) error { return explainText(w, e) }); err != nil {
		return err
	}
	code, known := sdk.ParseCode(e.Code)
	if !known {
		code = sdk.CodeInternal
	}
	if code != sdk.CodeOK {
		return &exitError{exitOfCode(code)}
	}
	return nil
}

func explainText(w io.Writer, e *admin.Explanation) error {
	verdict := "ok"
	if e.Code != sdk.CodeOK.String() {
		verdict = e.Code
	}
	fmt.Fprintf(w, "%s: %s\n", verdict, printable(e.Summary))
	for _, r := range e.Rules {
		word := "allows"
		if !r.OK {
			word = "forbids"
		}
		fmt.Fprintf(w, "rule      %s %s: %s\n", r.Key, word, printable(r.Text))
	}
	for i := range e.Endpoints {
		explainTarget(w, &e.Endpoints[i])
	}
	if e.Left > 0 {
		fmt.Fprintf(w, "and %d more, which were not tried\n", e.Left)
	}
	if u := e.Used; u != nil {
		fmt.Fprintf(w, "path      %s, %s, round trip %s (%s)\n", printable(u.Addr), securedText(u.Secured), rttText(u.RTTUS), tripText(u.Of))
	}
	if m := e.Found; m != nil {
		fmt.Fprintf(w, "methods   %s\n", printable(methodText(e.Method, m)))
	}
	return nil
}

func securedText(secured bool) string {
	if secured {
		return "encrypted, both ends proved"
	}
	return "not encrypted: both ends are of this kernel"
}

func tripText(of string) string {
	if of == "ping" {
		return "a call to the node's kernel"
	}
	return "a link made and answered"
}

func methodText(want string, m *admin.ExplainMethod) string {
	switch {
	case m.Error != "":
		return "not known: " + m.Error
	case len(m.Methods) == 0:
		return "none: the cell serves no service"
	case want == "":
		return strings.Join(m.Methods, ", ")
	case !m.Exists:
		return fmt.Sprintf("no %q; there are %s", want, strings.Join(m.Methods, ", "))
	case m.Streams != "":
		return fmt.Sprintf("%s exists; streams: %s", want, m.Streams)
	}
	return want + " exists"
}

// explainTarget writes an endpoint and its addresses.
func explainTarget(w io.Writer, t *admin.ExplainTarget) {
	who := t.ID
	switch {
	case t.Kind == "node" || t.NodeName != "":
		who = fmt.Sprintf("node %s (%s), %d of %s", t.NodeName, t.Node.Short(), t.Replicas, t.Cell)
	case t.Kind == "local":
		who = "replica " + t.ID
	}
	fmt.Fprintf(w, "endpoint  %s\n", printable(who))
	for _, o := range t.FoundBy {
		fmt.Fprintf(w, "  found   %s\n", printable(foundText(o)))
	}
	if t.Error != "" {
		fmt.Fprintf(w, "  not     %s\n", printable(t.Error))
	}
	for _, try := range t.Tries {
		text := fmt.Sprintf("answers, %s to dial, %s in all", rttText(try.DialledUS), rttText(try.TookUS))
		if !try.OK {
			text = fmt.Sprintf("fails after %s: %s", rttText(max(try.TookUS, 1)), try.Error)
		}
		fmt.Fprintf(w, "  tried   %s: %s\n", printable(try.Addr), printable(text))
	}
}

// foundText says by whom an endpoint is known.
func foundText(o admin.PeerOrigin) string {
	switch o.Source {
	case "genome":
		return "in this genome"
	case "axon":
		return "by its address in the axon"
	case "junction":
		return "by a junction to a kernel of this machine"
	}
	text := fmt.Sprintf("by discovery %s, seen at %s %s ago", o.Source, o.Addr, timeText(o.AgeMS, time.Millisecond))
	if o.NATPort != 0 {
		text += fmt.Sprintf("; a NAT replaces its port %d: from outside it may be out of reach", o.NATPort)
	}
	return text
}

// nodeNames lists the names of other nodes for completion.
func nodeNames(ctx context.Context, k admin.Kernel) []string {
	p, err := k.Peers(ctx)
	if err != nil {
		return nil
	}
	var list []string
	for _, peer := range p.Peers {
		if peer.Name != "" {
			list = append(list, peer.Name)
		}
	}
	return list
}
