package catalog

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// command says how the plugin of a spec is started.
func (c *Catalog) command(s Spec) (plugin.Command, error) {
	label := key{s.Kind, s.Name}.label()
	if filepath.IsAbs(s.Use) {
		cmd := plugin.Command{Name: label, Path: s.Use}
		if s.SHA256 == "" {
			return cmd, nil
		}
		exe, err := plugin.Seal(s.Use, s.SHA256)
		if err != nil {
			return cmd, sdk.Errorf(sdk.CodeInvalid, "%s: %v", label, err)
		}
		cmd.Exe = exe
		return cmd, nil
	}
	if s.SHA256 != "" {
		return plugin.Command{}, sdk.Errorf(sdk.CodeInvalid, "%s: sha256 pins files, and %q is bundled: remove it", label, s.Use)
	}
	if c.o.Bundled != nil {
		if cmd, ok := c.o.Bundled(s.Kind, s.Use); ok {
			cmd.Name = label
			return cmd, nil
		}
	}
	return plugin.Command{}, sdk.Errorf(sdk.CodeInvalid, "%s: no bundled %s is called %q: use an absolute path for a plugin of your own", label, s.Kind, s.Use)
}

func (c *Catalog) options(s Spec) (plugin.Options, error) {
	o := plugin.Options{Kind: s.Kind, Instance: s.Name, Config: s.Config, RunDir: c.o.RunDir, Env: c.o.Env, Launch: c.o.Launch}
	if c.o.Secret != nil {
		o.Secret = c.o.Secret(s.Kind, s.Name)
	}
	if c.o.Log != nil {
		o.Log = func(level slog.Level, line []byte) { c.o.Log(s.Kind, s.Name, level, line) }
	}
	if c.o.Certify != nil {
		o.Certify = func(ctx context.Context, spki []byte) ([]byte, error) { return c.o.Certify(ctx, s.Name, spki) }
	}
	if c.o.StateDir != "" {
		o.State = filepath.Join(c.o.StateDir, fmt.Sprintf("%s-%s", s.Kind, s.Name))
		if s.Kind == plugin.KindLedger && c.o.BookDir != "" {
			o.State = filepath.Join(c.o.BookDir, s.Name)
		}
		if err := os.MkdirAll(o.State, 0o700); err != nil {
			return o, fmt.Errorf("%s: make state directory: %w", key{s.Kind, s.Name}.label(), err)
		}
	}
	return o, nil
}
