package plugin

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	grpcrunner "github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
)

// maxSocketPath is the longest path of a Unix socket (sun_path, its final
// zero byte deducted), and socketName is the longest that go-plugin makes of
// its directory and file.
const (
	maxSocketPath = 107
	socketName    = len("/plugin-dir1234567890/plugin1234567890")
)

// Options say how a plugin is to be run. The zero value is good for tests.
type Options struct {
	// Kind is what the plugin must be; empty accepts any.
	Kind Kind
	// Instance is the plugin's name in the genome and in errors; empty for
	// the plugin's own name.
	Instance string
	// Config is the plugin's section without the kernel's own keys. It must
	// be possible to marshal it as JSON.
	Config map[string]any
	// Secret is what Host.Subkey derives from, 32 bytes; nil for a random one.
	Secret []byte
	// State is the plugin's directory, which must exist; empty for one that
	// is removed when the plugin has ended.
	State string
	// RunDir is where the plugin's private directory with its socket is made.
	// It must be short: see [Start]. Empty for the system's temporary directory.
	RunDir string
	// Env is added to the few variables that a plugin gets.
	Env []string
	// Log takes the plugin's lines: the level that a slog JSON line tells, else
	// info, and the line, which is only valid during the call. It may block:
	// that slows the plugin down. Nil drops the lines.
	Log func(level slog.Level, line []byte)
	// Certify answers Host.Certify of transports; nil refuses.
	Certify func(ctx context.Context, spki []byte) ([]byte, error)
	// Launch starts the process; nil for [Exec].
	Launch Launch
}

// Start runs cmd as a plugin process and opens it with o.Config. It returns
// when the plugin is ready, or with an error when it is not within 5 s from
// the start of the process and 10 s for its opening; nothing is left behind
// then. Call [Client.Stop] in the end.
//
// The process gets a clean environment, standard input from /dev/null, a
// private directory for its socket under o.RunDir and the side channel as
// descriptor 3.
func Start(ctx context.Context, cmd Command, o Options) (*Client, error) {
	s := starter{cmd: cmd, o: o, c: newClient(o)}
	if s.cmd.Name == "" {
		s.cmd.Name = filepath.Base(cmd.Path)
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	return s.c, nil
}

func newClient(o Options) *Client {
	c := &Client{done: make(chan struct{}), stopped: make(chan struct{})}
	if o.Instance != "" {
		c.label = o.Instance
		if o.Kind != "" {
			c.label = fmt.Sprintf("%s(%s)", o.Kind, o.Instance)
		}
	}
	return c
}

// A starter holds what exists half way.
type starter struct {
	cmd    Command
	o      Options
	c      *Client
	dir    string
	runner *runner
	gp     *goplugin.Client
}

func (s *starter) start(ctx context.Context) error {
	config, err := marshalConfig(s.o.Config)
	if err != nil {
		return s.wrap(err)
	}
	if s.dir, err = makeRunDir(s.o.RunDir); err != nil {
		return s.wrap(err)
	}
	if err := s.connect(ctx); err != nil {
		return s.wrap(err)
	}
	if err := s.c.setUp(ctx, s.o.Kind, config); err != nil {
		s.c.Kill()
		return s.explain(err)
	}
	return nil
}

// connect starts the process and returns when its gRPC connection is there,
// or with everything cleaned up.
func (s *starter) connect(ctx context.Context) error {
	ours, theirs, err := channel.Pair()
	if err != nil {
		os.RemoveAll(s.dir)
		return err
	}
	h, err := makeHello(s.o, filepath.Join(s.dir, "state"))
	if err == nil {
		s.c.side, err = newSide(ours, h, hostCalls(s.c, s.o))
	}
	if err != nil {
		theirs.Close()
		os.RemoveAll(s.dir)
		return err
	}
	s.prepare(theirs)
	result := make(chan error, 1)
	go func() {
		err := s.dial()
		theirs.Close()
		result <- err
	}()
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	pending := true
	select {
	case err = <-result:
		pending = false
	case <-timer.C:
		err = fmt.Errorf("it was not ready within %v", startTimeout)
	case <-ctx.Done():
		err = ctx.Err()
	}
	return s.connected(err, result, pending)
}

// connected starts the one goroutine that cleans up in the end, or does it now.
func (s *starter) connected(err error, result <-chan error, pending bool) error {
	if err == nil {
		go s.watch()
		return nil
	}
	// go-plugin holds its lock while it starts: only the death of the process
	// makes it return.
	s.runner.Kill(context.Background())
	if pending {
		<-result
	}
	s.runner.settle()
	err = s.explain(err)
	s.release()
	return err
}

// prepare configures go-plugin, which does nothing yet.
func (s *starter) prepare(theirs *os.File) {
	cmd := s.cmd
	cmd.Files = append([]*os.File{theirs}, cmd.Files...)
	if cmd.Dir == "" {
		cmd.Dir = s.dir
	}
	launch := s.o.Launch
	if launch == nil {
		launch = Exec
	}
	log := sink(s.o.Log)
	s.runner = newRunner(launch, cmd, s.dir, log)
	s.c.kill = func() { s.runner.Kill(context.Background()) }
	s.gp = goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  handshake(),
		VersionedPlugins: map[int]goplugin.PluginSet{protocolVersion: {dispensed: glue{}}},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		SkipHostEnv:      true,
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: s.dir},
		StartTimeout:     startTimeout,
		Logger:           hclog.NewNullLogger(),
		// What the plugin prints once it serves comes as a stream of gRPC.
		SyncStdout: &lineWriter{each: s.runner.line},
		SyncStderr: &lineWriter{each: s.runner.line},
		GRPCDialOptions: append(dialOptions(),
			grpc.WithTransportCredentials(newPeerCreds(isPlugin(func() int { return int(s.runner.pid.Load()) })))),
		RunnerFunc: func(_ hclog.Logger, spec *exec.Cmd, _ string) (grpcrunner.Runner, error) {
			s.runner.cmd.Env = append(append(baseEnv(), spec.Env...), s.o.Env...)
			return s.runner, nil
		},
	})
}

// baseEnv is what a plugin gets beside go-plugin's own variables. Nothing is
// inherited: the kernel's environment may hold secrets.
func baseEnv() []string {
	return []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "TZ=UTC", envFD + "=3"}
}

func dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxRPC), grpc.MaxCallSendMsgSize(maxRPC)),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
	}
}

func (s *starter) dial() error {
	proto, err := s.gp.Client()
	if err != nil && s.launched() && !s.runner.greeted.Load() {
		return errors.New("it never said that it is a plugin")
	}
	if err != nil {
		return err
	}
	cc, err := proto.Dispense(dispensed)
	if err != nil {
		return err
	}
	s.c.cc = cc.(*grpc.ClientConn) // from glue
	s.c.info.PID = int(s.runner.pid.Load())
	return nil
}

// launched reports whether there ever was a process.
func (s *starter) launched() bool { return s.runner != nil && s.runner.pid.Load() != 0 }

// watch waits for the end of the process and releases all that belonged to it.
func (s *starter) watch() {
	<-s.runner.exited
	s.release()
	s.c.err = s.c.exitError(s.runner.err)
	close(s.c.done)
}

// release is called when the process is gone or never was.
func (s *starter) release() {
	ended := make(chan struct{})
	go func() {
		s.gp.Kill()
		close(ended)
	}()
	timer := time.NewTimer(5 * time.Second)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C: // hangs of go-plugin's Kill are known: they must not be ours
	}
	s.c.side.close()
	os.RemoveAll(s.dir)
}

// killed reports whether a process ended like those that we end, as package
// os/exec says it or a kernel's own launcher.
func killed(err error) bool {
	return err.Error() == "signal: killed" || err.Error() == "killed by SIGKILL"
}

// explain adds the plugin's last words and what to do.
func (s *starter) explain(err error) error {
	select {
	case <-s.runner.exited:
		if s.runner.err != nil && !killed(s.runner.err) { // not by us
			err = fmt.Errorf("%w; the process ended with %v", err, s.runner.err)
		}
	default:
	}
	if last := s.runner.tail.String(); last != "" {
		return fmt.Errorf("%w; the last it wrote:%s", err, last)
	}
	return err
}

// itself is the path of a plugin inside the kernel's own program: it says
// nothing about which one that is.
const itself = "/proc/self/exe"

// wrap names the plugin in errors that do not yet.
func (s *starter) wrap(err error) error {
	var e *sdk.Error
	if errors.As(err, &e) && s.c.label != "" {
		return err
	}
	switch {
	case s.cmd.Path == itself && s.o.Instance != "":
		return fmt.Errorf("start plugin %s-%s: %w; `cellkernel logs %[1]s-%[2]s` shows what it wrote", s.o.Kind, s.o.Instance, err)
	case s.cmd.Path == itself:
		return fmt.Errorf("start plugin %s: %w", s.cmd.Name, err)
	case !s.launched():
		return fmt.Errorf("start plugin %s (%s): %w", s.cmd.Name, s.cmd.Path, err)
	}
	return fmt.Errorf("start plugin %s (%s): %w; try `cellkernel plugin test %s`", s.cmd.Name, s.cmd.Path, err, s.cmd.Path)
}

func marshalConfig(config map[string]any) ([]byte, error) {
	if config == nil {
		return []byte("{}"), nil
	}
	b, err := json.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("marshal configuration: %w", err)
	}
	if len(b) > maxRPC/4 {
		return nil, fmt.Errorf("marshal configuration: %d bytes: at most %d", len(b), maxRPC/4)
	}
	return b, nil
}

// makeRunDir makes the private directory of one process. Its length is checked
// here because everyone further down reports a long path as something else.
func makeRunDir(base string) (string, error) {
	if base == "" {
		base = os.TempDir()
	}
	dir, err := os.MkdirTemp(base, "p")
	if err != nil {
		return "", fmt.Errorf("make run directory: %w", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "state"), 0o700); err != nil {
		os.RemoveAll(dir)
		return "", fmt.Errorf("make run directory: %w", err)
	}
	if len(dir)+socketName > maxSocketPath {
		os.RemoveAll(dir)
		return "", fmt.Errorf("run directory %q: %d bytes leave no room for a socket's name of %d (limit %d): use a shorter one, for example by setting XDG_RUNTIME_DIR", base, len(dir), socketName, maxSocketPath)
	}
	return dir, nil
}

func makeHello(o Options, scratch string) (hello, error) {
	h := hello{Instance: o.Instance, Secret: o.Secret, State: o.State}
	if h.Secret == nil {
		h.Secret = make([]byte, 32)
		rand.Read(h.Secret)
	}
	if len(h.Secret) != 32 {
		return h, fmt.Errorf("secret of %d bytes: want 32", len(h.Secret))
	}
	if h.State == "" {
		h.State = scratch
	}
	state, err := filepath.Abs(h.State)
	h.State = state
	return h, err
}

// hostCalls is what a plugin may ask of us.
func hostCalls(c *Client, o Options) func(context.Context, string, []byte) ([]byte, error) {
	return func(ctx context.Context, method string, body []byte) ([]byte, error) {
		switch {
		case method != methodCertify:
			return nil, sdk.Errorf(sdk.CodeNotFound, "no host call %q", clip(method, 40))
		case c.kind.Load() != KindTransport:
			return nil, sdk.Errorf(sdk.CodeDenied, "only transports get certificates")
		case o.Certify == nil:
			return nil, sdk.Errorf(sdk.CodeUnavailable, "this kernel issues no certificates")
		case len(body) == 0 || len(body) > 1024:
			return nil, sdk.Errorf(sdk.CodeInvalid, "public key of %d bytes: want 1 to 1024", len(body))
		}
		return o.Certify(ctx, body)
	}
}
