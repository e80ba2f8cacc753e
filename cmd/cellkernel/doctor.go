package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/genome"
)

// The outcomes of a check.
const (
	doctorOK   = "ok"
	doctorWarn = "warn" // something works less well, or is not used here
	doctorFail = "fail" // something can not work
)

// A finding is the outcome of one check.
type finding struct {
	Check  string `json:"check"`
	State  string `json:"state"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // what to type
}

// A patient is the machine, and the genome that is meant, if there is one.
type patient struct {
	genome *genome.Genome // nil: there is none, or it is wrong
	self   *admin.Peer    // of its kernel, if that runs
}

func (a *app) doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check what this machine gives to a kernel, and say how to mend it",
		Long: `Doctor needs no kernel. It checks multicast, UDP buffers, the ports of the genome, the clock, cgroups, the
modes of keys, the directory of sockets, the Go toolchain and the limit of open files. Each check ends with
ok, warn or fail, and with what to type where something can be done. Nothing it sends leaves the machine. It
ends with 1 if a check fails.`,
		Args:              args(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), briefLimit)
			defer cancel()
			list := a.examine(ctx)
			if err := a.show(list, func(w io.Writer) error { return doctorText(w, list) }); err != nil {
				return err
			}
			for _, f := range list {
				if f.State == doctorFail {
					return &exitError{exitFailed}
				}
			}
			return nil
		},
	}
	a.outputFlag(cmd)
	return cmd
}

// examine makes all checks.
func (a *app) examine(ctx context.Context) []finding {
	p, first := a.patient(ctx)
	list := append(first, p.checkMulticast(ctx), checkBuffers())
	list = append(list, p.checkPorts()...)
	list = append(list, checkClock(), checkCgroup())
	return append(list, p.checkKeys(), checkSockets(), checkGo(ctx), checkFiles())
}

// patient finds the genome that is meant and its kernel. Neither has to be there.
func (a *app) patient(ctx context.Context) (*patient, []finding) {
	p := &patient{}
	file, err := a.genomeFile()
	if err == nil && file == "" {
		file, err = nearestManifest()
	}
	if err != nil {
		return p, []finding{{Check: "genome", State: doctorOK, Detail: "none here: its ports and keys are not checked"}}
	}
	g, _, err := load(admin.Plan{File: file, Environ: settingsOf(os.Environ())})
	if err != nil {
		return p, []finding{{"genome", doctorFail, err.Error(), "cellkernel config check " + relative(file)}}
	}
	p.genome = g
	if c, err := kernelOf(ctx, file); err == nil && c != nil {
		defer c.Close()
		if peers, err := c.Peers(ctx); err == nil {
			p.self = &peers.Self
		}
	}
	return p, []finding{{Check: "genome", State: doctorOK, Detail: filepath.Clean(relative(file))}}
}

func doctorText(w io.Writer, list []finding) error {
	colour := map[string]string{doctorOK: green, doctorWarn: yellow, doctorFail: red}
	on := colourful(w)
	for _, f := range list {
		if _, err := fmt.Fprintf(w, "%s  %-10s %s\n", pad(paint(on, colour[f.State], f.State), 4), f.Check, printable(f.Detail)); err != nil {
			return err
		}
		if f.Fix != "" {
			if _, err := fmt.Fprintf(w, "%17sfix: %s\n", "", printable(f.Fix)); err != nil {
				return err
			}
		}
	}
	return nil
}
