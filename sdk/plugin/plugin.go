package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"

	"github.com/cellkernel/cellkernel/sdk"
)

// A Kind is one of the four interfaces a plugin can implement.
type Kind string

// The kinds.
const (
	KindTransport Kind = "transport"
	KindDiscovery Kind = "discovery"
	KindLedger    Kind = "ledger"
	KindBilling   Kind = "billing"
)

// Valid reports whether k is one of the four kinds.
func (k Kind) Valid() bool {
	switch k {
	case KindTransport, KindDiscovery, KindLedger, KindBilling:
		return true
	}
	return false
}

// A Plugin is everything there is to know about an implementation of a kind.
// It is a value without state: the same one is served by the plugin's own
// binary ([Main]), by a kernel that bundles it ([Serve]) and inside tests
// ([Pipe]). Make one with [Transport], [Discovery], [Ledger] or [Billing].
type Plugin struct {
	kind    Kind
	name    string
	version string
	setup   func() // nil for none
	check   func(config []byte) error
	open    func(ctx context.Context, config []byte, host Host) (any, error)
}

// Kind returns which interface the plugin implements.
func (p Plugin) Kind() Kind { return p.kind }

// Name returns the plugin's name, for a transport also the scheme of its
// addresses.
func (p Plugin) Name() string { return p.name }

// Version returns what [Plugin.WithVersion] set, else the version of the main
// module of this binary.
func (p Plugin) Version() string {
	if p.version != "" {
		return p.version
	}
	if bi, ok := debug.ReadBuildInfo(); ok && bi.Main.Version != "" {
		return clip(bi.Main.Version, maxVersion)
	}
	return "(devel)"
}

// Check reports what is wrong with a section, as opening the plugin with it
// would, without opening it. What is wrong with one key is a [KeyError] in the
// tree of the error.
func (p Plugin) Check(section map[string]any) error {
	config, err := marshalConfig(section)
	if err != nil {
		return err
	}
	return p.check(config)
}

// WithVersion returns a copy of p that reports version, at most 64 bytes.
func (p Plugin) WithVersion(version string) Plugin {
	p.version = clip(version, maxVersion)
	return p
}

// WithSetup returns a copy of p that runs setup first where it is served by a
// process of its own ([Main], [Serve]), and not in a [Pipe]. It is for what
// belongs to the whole process, such as how many threads it runs on.
func (p Plugin) WithSetup(setup func()) Plugin {
	p.setup = setup
	return p
}

// Transport makes a plugin of a transport. The genome's section is decoded
// strictly over a copy of defaults and given to open, whose ctx bounds the
// opening alone. If T has a Close() error method it is called before the
// process ends. Transport panics if name is no cell name or if C is no struct
// that JSON can carry.
//
// A connection that open's transport returns is handed over as it is if its
// type is exactly *net.UnixConn or *net.TCPConn or if it is a [Detacher]; the
// bytes of every other connection are pumped by the plugin process.
func Transport[C any, T sdk.Transport](name string, defaults C, open func(ctx context.Context, config C, host Host) (T, error)) Plugin {
	return define(KindTransport, name, defaults, open)
}

// Discovery makes a plugin of a discovery; see [Transport].
func Discovery[C any, T sdk.Discovery](name string, defaults C, open func(ctx context.Context, config C, host Host) (T, error)) Plugin {
	return define(KindDiscovery, name, defaults, open)
}

// Ledger makes a plugin of a ledger; see [Transport].
func Ledger[C any, T sdk.Ledger](name string, defaults C, open func(ctx context.Context, config C, host Host) (T, error)) Plugin {
	return define(KindLedger, name, defaults, open)
}

// Billing makes a plugin of a billing; see [Transport].
func Billing[C any, T sdk.Billing](name string, defaults C, open func(ctx context.Context, config C, host Host) (T, error)) Plugin {
	return define(KindBilling, name, defaults, open)
}

func define[C, T any](kind Kind, name string, defaults C, open func(context.Context, C, Host) (T, error)) Plugin {
	if _, err := sdk.ParseCellName(name); err != nil {
		panic(fmt.Sprintf("plugin: %s: %v", kind, err))
	}
	base, err := json.Marshal(defaults)
	if err == nil {
		err = checkConfigType[C]()
	}
	if err == nil {
		_, err = decodeConfig[C](base, nil)
	}
	if err != nil {
		panic(fmt.Sprintf("plugin: %s %q: defaults: %v", kind, name, err))
	}
	decode := func(config []byte) (C, error) {
		cfg, err := decodeConfig[C](base, config)
		if v, ok := any(&cfg).(interface{ Validate() error }); ok && err == nil {
			err = v.Validate()
		}
		return cfg, err
	}
	check := func(config []byte) error { _, err := decode(config); return err }
	return Plugin{kind: kind, name: name, check: check, open: func(ctx context.Context, config []byte, host Host) (any, error) {
		cfg, err := decode(config)
		if err != nil {
			return nil, sdk.Errorf(sdk.CodeInvalid, "%v", err)
		}
		return open(ctx, cfg, host)
	}}
}
