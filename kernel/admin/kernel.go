package admin

import (
	"context"
	"encoding/json"

	"github.com/cellkernel/cellkernel/sdk"
)

// A Kernel is what a kernel offers through its admin socket. All methods may
// be called concurrently. Errors are, or wrap, [sdk.Error] wherever the caller
// should be able to tell one kind from another: an unknown name is
// [sdk.CodeNotFound], an argument that can never work [sdk.CodeInvalid].
type Kernel interface {
	Viewer
	Watcher
	Controller
	Caller
	Prober
	Member
	Inviter
	Guard
	Banker
}

// A Viewer shows what is.
type Viewer interface {
	// Version identifies the kernel. It does not block.
	Version() Version
	// Status sums up what is ready and what is not.
	Status(ctx context.Context) (*Status, error)
	// Processes lists the kernel, its cells' replicas and its plugins.
	Processes(ctx context.Context) ([]Process, error)
	// Plugins lists the plugin processes that are wanted.
	Plugins(ctx context.Context) ([]Plugin, error)
	// Config lists every setting in effect, in the order of the manifest.
	Config(ctx context.Context) ([]Setting, error)
}

// A Watcher shows what happens.
type Watcher interface {
	// Events yields the events after sequence number after, oldest first, and
	// then new ones as they come, until ctx is done (nil), yield returns an
	// error (that error) or the kernel has ended (nil). Zero means all that
	// are still held. [Journal.Follow] is this method.
	Events(ctx context.Context, after uint64, yield func(Event) error) error
	// Logs yields stored records in order of time and, if q.Follow, new ones
	// until ctx is done (nil), yield returns an error (that error) or the
	// kernel has ended and all is yielded (nil). A source that does not exist
	// is [sdk.CodeNotFound].
	Logs(ctx context.Context, q LogQuery, yield func(LogRecord) error) error
}

// A Controller changes what is. Its methods return when the change is
// complete, that is when what was started is ready and what was stopped is
// gone, or with ctx's error; the change itself then goes on.
type Controller interface {
	// Start starts a cell, or one replica, that is stopped, done or failed.
	Start(ctx context.Context, t Target) error
	// Stop drains and ends a cell, or one replica, until it is started again.
	Stop(ctx context.Context, t Target) error
	// Restart drains and replaces a cell's replicas, one after the other.
	Restart(ctx context.Context, t Target) error
	// Scale sets the number of replicas, at most [MaxReplicas].
	Scale(ctx context.Context, cell sdk.CellName, replicas int) error
	// RestartPlugin replaces a plugin's process, also one that has failed.
	// The name is "transport-quic", or "quic" where that is unambiguous.
	RestartPlugin(ctx context.Context, name string) error
	// SwapPlugin has another plugin of its kind, or another version of itself,
	// take the place of one. It refuses to lose nodes that are in use, unless
	// force is set: then the error is [sdk.CodeUnavailable] and nothing changed.
	SwapPlugin(ctx context.Context, from, to string, force bool) error
	// Apply makes the kernel run p and returns what that changed or, with
	// p.DryRun, would change. A plan that is already in effect changes nothing.
	// A manifest that is wrong is [sdk.CodeInvalid]: its text holds all errors.
	Apply(ctx context.Context, p Plan) ([]Change, error)
	// Down drains the kernel, yields what it waits for, and returns when
	// nothing but the kernel is left; the kernel then ends by itself.
	Down(ctx context.Context, r DownRequest, yield func(Event) error) error
}

// A Caller reaches into cells.
type Caller interface {
	// Describe lists the methods that a cell serves, by name.
	Describe(ctx context.Context, cell sdk.CellName) ([]Method, error)
	// Call calls a method with a JSON message and returns the JSON reply.
	// Its deadline is that of ctx and [CallRequest].Timeout, whichever is first.
	Call(ctx context.Context, r CallRequest) (json.RawMessage, error)
	// Launch prepares one attached run of a cell in the caller's terminal. A
	// command replaces the cell's own; nil keeps it. It builds what is stale.
	Launch(ctx context.Context, cell sdk.CellName, command []string) (*Launch, error)
}
