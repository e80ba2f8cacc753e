// Package memplugin implements every kind of plugin in memory: as a reference
// for authors, as fakes for tests, and as what a kernel's tests run on. What
// must be shared, the addresses of a transport and the hub of a discovery, is
// shared by all plugins of one process that were made from one value.
package memplugin

import (
	"context"

	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// Config is the empty section of plugins without settings.
type Config struct{}

// Transport returns a transport "mem" whose addresses are any strings. Its
// connections are socket pairs; plugins opened from one returned value, and
// only they, reach each other.
func Transport() plugin.Plugin {
	n := &network{listeners: map[string]*listener{}}
	return plugin.Transport("mem", Config{}, func(context.Context, Config, plugin.Host) (*transport, error) {
		return &transport{n}, nil
	})
}

// Discovery returns a discovery "mem". Plugins opened from one returned value
// see each other and themselves.
func Discovery() plugin.Plugin {
	h := &hub{nodes: map[*discovery][]envelope{}, watchers: map[*watcher]bool{}}
	return plugin.Discovery("mem", Config{}, func(context.Context, Config, plugin.Host) (*discovery, error) {
		return &discovery{hub: h}, nil
	})
}

// Ledger returns a ledger "mem" whose book is gone when the plugin is.
func Ledger() plugin.Plugin {
	return plugin.Ledger("mem", Config{}, func(context.Context, Config, plugin.Host) (*ledger, error) {
		return newLedger(), nil
	})
}

// Billing returns a billing "mem" that reads /proc and places nothing.
func Billing() plugin.Plugin {
	return plugin.Billing("mem", Config{}, func(context.Context, Config, plugin.Host) (*billing, error) {
		return &billing{}, nil
	})
}
