package build

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A tool is the go command and the environment it runs in.
type tool struct {
	path string   // empty if there is none
	id   string   // which one; empty if there is none
	env  []string // variables that change what it makes, sorted
	// config is the file of "go env -w".
	config string
}

func findTool(environ []string) tool {
	t := tool{env: []string{}}
	vars := map[string]string{}
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		vars[name] = value // the last one counts, as for every child
	}
	for name, value := range vars {
		if matters(name) {
			t.env = append(t.env, name+"="+value)
		}
	}
	slices.Sort(t.env)
	t.config = configFile(vars)
	for _, dir := range filepath.SplitList(vars["PATH"]) {
		path := filepath.Join(dir, "go")
		if !filepath.IsAbs(path) || !isExecutable(path) {
			continue
		}
		t.path, t.id = path, path
		if real, err := filepath.EvalSymlinks(path); err == nil {
			t.id = real + " " + identify(real)
		}
		break
	}
	return t
}

func configFile(vars map[string]string) string {
	switch {
	case vars["GOENV"] == "off":
		return ""
	case vars["GOENV"] != "":
		return vars["GOENV"]
	case vars["XDG_CONFIG_HOME"] != "":
		return filepath.Join(vars["XDG_CONFIG_HOME"], "go", "env")
	case vars["HOME"] != "":
		return filepath.Join(vars["HOME"], ".config", "go", "env")
	}
	return ""
}

func isExecutable(path string) bool {
	found, err := exec.LookPath(path)
	return err == nil && found == path
}

// matters reports whether a variable can change what the go command makes.
func matters(name string) bool {
	switch name {
	case "GOMAXPROCS", "GOGC", "GOMEMLIMIT", "GOTRACEBACK", "GODEBUG", "GOCACHE", "GOTMPDIR", "GOPROXY", "GOSUMDB",
		"GONOSUMDB", "GONOPROXY", "GOPRIVATE", "GOINSECURE", "GOAUTH", "GOVCS", "GOCOVERDIR", "GOTELEMETRY":
		return false
	case "CC", "CXX", "FC", "AR", "PKG_CONFIG", "PKG_CONFIG_PATH":
		return true
	}
	return strings.HasPrefix(name, "GO") || strings.HasPrefix(name, "CGO_")
}

// value returns a variable that matters.
func (t tool) value(name string) string {
	for _, v := range t.env {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

const (
	maxErrorText = 64 << 10        // bytes of what the go command says that are passed on
	killDelay    = 2 * time.Second // for children of a killed go command to let go of the pipes
)

// run runs the go command and returns what it wrote, and on standard error.
func (b *builder) run(ctx context.Context, dir string, args ...string) (stdout, stderr []byte, err error) {
	cmd := exec.CommandContext(ctx, b.tool.path, args...)
	cmd.Dir = dir
	cmd.Env = append(slices.Clone(b.opts.Env), "PWD="+dir)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the compilers, too, end with ctx
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killDelay
	err = cmd.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return out.Bytes(), errs.Bytes(), err
}

// complaint makes an error of what the go command wrote.
func complaint(text []byte, err error) error {
	var exit *exec.ExitError
	s := strings.TrimSpace(string(text))
	if !errors.As(err, &exit) || s == "" {
		return err
	}
	if len(s) > maxErrorText {
		s = s[:maxErrorText] + "\n…"
	}
	return errors.New(s)
}
