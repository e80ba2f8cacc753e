package main

import (
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

func (a *app) pluginCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "plugin", Short: "List, test, restart and swap plugins"}
	group(cmd)
	cmd.AddCommand(a.pluginListCommand(), a.pluginTestCommand(), a.pluginRestartCommand(), a.pluginSwapCommand())
	return cmd
}

func (a *app) pluginListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "list",
		Short:             "List the plugins of the running kernel",
		Args:              args(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := brief(cmd)
			defer cancel()
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := c.Plugins(ctx)
			if err != nil {
				return err
			}
			return a.show(list, func(w io.Writer) error { return pluginTable(w, list) })
		},
	}
	a.outputFlag(cmd)
	return cmd
}

func pluginTable(w io.Writer, list []admin.Plugin) error {
	var rows [][]string
	for _, p := range list {
		rows = append(rows, []string{string(p.Kind), p.Name, p.Version, p.Source, string(p.State),
			number(p.PID), strconv.Itoa(p.Restarts), p.Detail})
	}
	return table(w, []string{"KIND", "NAME", "VERSION", "SOURCE", "STATE", "PID", "RESTARTS", "DETAIL"}, rows)
}

func (a *app) pluginRestartCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "restart NAME",
		Short: "Replace the process of a plugin, also of one that has failed",
		Long:  `Restart takes "transport-quic", or "quic" where only one plugin is called that.`,
		Args:  args(1, 1), ValidArgsFunction: a.completePlugins,
		RunE: func(cmd *cobra.Command, words []string) error {
			c, err := a.connectToChange(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			err = c.RestartPlugin(cmd.Context(), words[0])
			if sdk.CodeOf(err) == sdk.CodeNotFound {
				return withHint(err, `"cellkernel plugin list" lists the names`)
			}
			return err
		},
	}
}

func (a *app) pluginSwapCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "swap OLD NEW",
		Short: "Exchange a plugin for another one while cells go on",
		Long: `Swap has NEW take the place of OLD: another discovery ("discovery-lighthouse"), or the path of another version of
the same plugin. NEW is started beside OLD, which ends once NEW sees every node that is in use. If it does not, or does not
start, OLD goes on and nothing has changed.

The genome is not changed: the next "cellkernel up" goes back to what it says.`,
		Args: args(2, 2), ValidArgsFunction: a.completePlugins,
		RunE: func(cmd *cobra.Command, words []string) error {
			c, err := a.connectToChange(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			to := words[1]
			if strings.ContainsRune(to, filepath.Separator) {
				if to, err = filepath.Abs(to); err != nil {
					return err
				}
			}
			err = c.SwapPlugin(cmd.Context(), words[0], to, force)
			switch code := sdk.CodeOf(err); {
			case code == sdk.CodeNotFound:
				return withHint(err, `"cellkernel plugin list" lists the names`)
			case code == sdk.CodeInvalid:
				return withHint(err, `"cellkernel plugin list" lists what runs; "cellkernel plugin restart" replaces the process of the same plugin`)
			case admin.CauseOf(err) == admin.CauseUncovered:
				return withHint(err, `--force swaps nevertheless`)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "swap although nodes that are in use are not seen by the new one")
	return cmd
}
