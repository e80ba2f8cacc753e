package kernel_test

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// importTable says what each directory may import besides the standard library.
// It is a statement of policy: it is not changed to make a build work. A line
// that ends in /... is for all directories below it that have none of their
// own, and these may import each other; an import that ends so means the same.
const importTable = `
sdk:
sdk/wire:
sdk/flat:
sdk/channel:                  sdk golang.org/x/sys
sdk/rawio:                    golang.org/x/sys
sdk/synapse:                  sdk github.com/flynn/noise golang.org/x/crypto
sdk/cell:                     sdk sdk/wire sdk/flat sdk/synapse sdk/channel sdk/rawio golang.org/x/sys
sdk/cell/celltest:            sdk sdk/cell sdk/channel golang.org/x/sys
internal/procstat:
sdk/plugin:                   internal/procstat sdk sdk/channel sdk/rawio sdk/plugin/pluginpb github.com/hashicorp/go-plugin github.com/hashicorp/go-hclog google.golang.org/grpc google.golang.org/protobuf golang.org/x/sys
sdk/plugin/pluginpb:          google.golang.org/grpc google.golang.org/protobuf
sdk/plugin/pluginpb/pbgen:    github.com/bufbuild/protocompile google.golang.org/protobuf
sdk/plugin/memplugin:         internal/procstat sdk sdk/plugin
sdk/plugin/plugintest:        internal/procstat sdk sdk/plugin sdk/plugin/memplugin

kernel/genome:                sdk
kernel/config:                sdk kernel/genome github.com/knadh/koanf github.com/pelletier/go-toml
kernel/identity:              sdk sdk/synapse golang.org/x/crypto
kernel/membership:            sdk sdk/plugin kernel/admin kernel/identity golang.org/x/sys
kernel/catalog:               internal/procstat sdk sdk/plugin
kernel/peers:                 sdk
kernel/golgi:                 sdk sdk/wire sdk/channel kernel/peers kernel/identity
kernel/supervisor:            internal/procstat sdk sdk/channel kernel/genome kernel/vacuole golang.org/x/sys
kernel/vacuole:
kernel/books:                 sdk
kernel/meter:                 sdk
kernel/settle:                sdk sdk/cell kernel/books kernel/meter kernel/node
kernel/wallet:                sdk kernel/admin kernel/books kernel/settle
kernel/gauge:                 sdk kernel/meter golang.org/x/sys
kernel/node:                  sdk sdk/cell sdk/flat
kernel/network:               sdk sdk/plugin sdk/wire kernel/catalog kernel/genome kernel/golgi kernel/identity kernel/peers golang.org/x/sys
kernel/probe:                 sdk sdk/cell sdk/wire kernel/admin kernel/genome kernel/golgi kernel/network kernel/node kernel/peers
kernel/metrics:               github.com/prometheus/client_golang
kernel/admin:                 sdk
kernel/admin/admintest:       sdk kernel/admin
kernel:                       sdk sdk/wire sdk/channel sdk/cell sdk/plugin kernel/... golang.org/x/sys

plugins/transport-uds/...:        sdk sdk/plugin
plugins/transport-quic/...:       sdk sdk/plugin github.com/quic-go/quic-go golang.org/x/net golang.org/x/sys
plugins/discovery-multicast/...:  sdk sdk/plugin github.com/vishvananda/netlink golang.org/x/sys
plugins/discovery-lighthouse/...: sdk sdk/plugin plugins/discovery-lighthouse/datagram
plugins/discovery-lighthouse/datagram:   sdk
plugins/discovery-lighthouse/lighthouse: sdk plugins/discovery-lighthouse/datagram github.com/prometheus/client_golang golang.org/x/sys
plugins/ledger-json/...:          sdk sdk/plugin
plugins/billing-cgroup/...:       sdk sdk/plugin github.com/prometheus/procfs

cmd/cellkernel:                     cmd/cellkernel/internal/... sdk sdk/plugin sdk/plugin/plugintest sdk/plugin/memplugin kernel kernel/admin kernel/config kernel/genome kernel/membership kernel/supervisor kernel/wallet plugins/... examples github.com/spf13/cobra golang.org/x/sys
cmd/cellkernel/e2e:
cmd/cellkernel/internal/gen:        sdk/flat golang.org/x/tools
cmd/cellkernel/internal/gen/gentest: sdk sdk/cell sdk/flat
cmd/cellkernel/internal/scaffold:
cmd/cellkernel/internal/build:      cmd/cellkernel/internal/gen
cmd/cellkernel/internal/page:

examples:
examples/...:                 sdk/... examples/... golang.org/x/sys github.com/HdrHistogram
examples/acceptance/plugins/transport-uds: sdk/plugin examples/acceptance/probe plugins/transport-uds/udstransport
examples/netlab:              golang.org/x/sys github.com/vishvananda/netlink
examples/bench/coordinator:   sdk sdk/cell examples/bench/... google.golang.org/grpc github.com/HdrHistogram github.com/quic-go/quic-go
examples/bench/grpcbase:      google.golang.org/grpc google.golang.org/protobuf
.ci/...:
`

// forTests may be imported by tests everywhere, like all of the sdk.
const forTests = `sdk/... kernel/admin/admintest examples/netlab pgregory.net/rapid go.uber.org/goleak github.com/rogpeppe/go-internal
github.com/google/flatbuffers github.com/spf13/pflag golang.org/x/sys golang.org/x/crypto
github.com/cockroachdb/pebble`

// mayTest are imports that tests of one directory need in addition.
var mayTest = map[string]string{
	"cmd/cellkernel/e2e": "kernel/admin kernel/books cmd/cellkernel/e2e/testdata/... cmd/cellkernel/internal/page",
	"kernel":             "kernel/...",
	"cmd/cellkernel":     "kernel/books",
}

const module = "github.com/cellkernel/cellkernel/"

// rules parses the table: allowed imports by directory.
func rules(t *testing.T) map[string][]string {
	t.Helper()
	m := map[string][]string{}
	for line := range strings.Lines(importTable) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		dir, list, ok := strings.Cut(line, ":")
		if !ok || m[dir] != nil {
			t.Fatalf("import table: line %q is malformed or there twice", line)
		}
		m[dir] = append([]string{dir}, strings.Fields(list)...)
	}
	return m
}

// rule finds the line for a directory: its own, or that of the nearest parent
// that speaks for what is below it.
func rule(m map[string][]string, dir string) (string, []string) {
	if r, ok := m[dir]; ok {
		return dir, r
	}
	for up := dir; ; {
		if r, ok := m[up+"/..."]; ok {
			return up + "/...", r
		}
		i := strings.LastIndexByte(up, '/')
		if i < 0 {
			return "", nil
		}
		up = up[:i]
	}
}

// permits reports whether path is in the list. Libraries are listed by a
// prefix of their path, our own packages by their directory.
func permits(list []string, path string) bool {
	return slices.ContainsFunc(list, func(p string) bool {
		if tree, ok := strings.CutSuffix(p, "/..."); ok {
			return path == tree || strings.HasPrefix(path, tree+"/")
		}
		return path == p || strings.Contains(p, ".") && strings.HasPrefix(path, p+"/")
	})
}

func TestImports(t *testing.T) {
	table := rules(t)
	used := map[string]bool{}
	for _, s := range sources(t) {
		line, allowed := rule(table, s.dir)
		if allowed == nil {
			t.Errorf("%s: the import table has no line for %s", s.path, s.dir)
			continue
		}
		used[line] = true
		if s.isTest() {
			allowed = slices.Concat(allowed, strings.Fields(forTests), strings.Fields(mayTest[s.dir]), []string{s.dir})
		}
		for _, imp := range s.file.Imports {
			path, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			ours, isOurs := strings.CutPrefix(path, module)
			if first, _, _ := strings.Cut(path, "/"); !isOurs && !strings.Contains(first, ".") {
				continue // the standard library
			}
			if !permits(allowed, ours) {
				t.Errorf("%s:%d: %s may not import %s", s.path, s.line(imp.Pos()), s.dir, ours)
			}
		}
	}
	for _, line := range slices.Sorted(maps.Keys(table)) {
		if !used[line] && !strings.HasPrefix(line, "plugins/") {
			t.Errorf("the import table has a line for %s, which has no Go code", line)
		}
	}
}

// The bundled plugins are named in one place. The acceptance tests run one of
// them by path.
func TestOneFileImportsPlugins(t *testing.T) {
	for _, s := range sources(t) {
		for _, imp := range s.file.Imports {
			named := s.path == "cmd/cellkernel/builtins.go" || strings.HasPrefix(s.dir, "plugins/") || strings.HasPrefix(s.dir, "examples/acceptance/plugins/")
			if strings.HasPrefix(imp.Path.Value, `"`+module+"plugins/") && !named {
				t.Errorf("%s:%d: only builtins.go imports plugins", s.path, s.line(imp.Pos()))
			}
		}
	}
}

// The table must be able to say no.
func TestTheImportTableRefuses(t *testing.T) {
	table := rules(t)
	for dir, imports := range map[string][]string{
		"sdk":                   {"sdk/wire", "sdk/cell/celltest", "golang.org/x/sys/unix"},
		"sdk/wire":              {"sdk"},
		"sdk/cell":              {"google.golang.org/grpc", "sdk/plugin", "kernel/golgi"},
		"sdk/plugin":            {"sdk/cell", "kernel"},
		"kernel/golgi":          {"kernel/supervisor", "sdk/cell", "sdk/plugin"},
		"kernel/supervisor":     {"kernel/golgi", "kernel/admin"},
		"kernel/vacuole":        {"sdk"},
		"kernel/network":        {"kernel", "kernel/probe", "sdk/cell"},
		"kernel/books":          {"sdk/plugin"},
		"kernel":                {"cmd/cellkernel", "plugins/transport-uds/udstransport", "google.golang.org/grpc"},
		"plugins/transport-uds": {"kernel", "plugins/ledger-json", "sdk/cell"},
		"cmd/cellkernel":        {"kernel/golgi", "sdk/cell", "github.com/knadh/koanf/v2"},
		"examples/hello/greet":  {"kernel", "google.golang.org/grpc", "cmd/cellkernel"},
	} {
		_, allowed := rule(table, dir)
		for _, path := range imports {
			if permits(allowed, path) {
				t.Errorf("%s may import %s", dir, path)
			}
		}
	}
	for dir, path := range map[string]string{
		"sdk/cell": "golang.org/x/sys/unix", "kernel": "kernel/golgi", "kernel/config": "github.com/knadh/koanf/v2",
		"plugins/transport-uds": "plugins/transport-uds/udstransport", "examples/hello/visitor": "examples/hello/greet",
	} {
		if _, allowed := rule(table, dir); !permits(allowed, path) {
			t.Errorf("%s may not import %s", dir, path)
		}
	}
}
