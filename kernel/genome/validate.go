package genome

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// Limits of what one kernel runs.
const (
	MaxCells    = 1024
	MaxReplicas = 1024 // of one cell, and of all cells together 4096
	maxTotal    = 4096
	maxPerCell  = 256 // axons, junctions, allow entries of one cell
	maxPlugins  = 64
	maxTargets  = 16
	maxTime     = 24 * time.Hour
)

// The values of [Cell].Restart.
const (
	RestartAlways    = "always"
	RestartOnFailure = "on-failure"
	RestartNever     = "never"
)

// A Problem is one thing that is wrong with a genome.
type Problem struct {
	Key  []string // path of the value, for example cells worker replicas
	Also []string // other keys of the same table whose absence would explain it
	Text string
	Hint string // the nearest valid spelling, empty if there is none
	Name bool   // the key itself is wrong, not its value
}

// String returns `key: text (did you mean "hint"?)`.
func (p Problem) String() string { return strings.Join(p.Key, ".") + ": " + p.Sentence() }

// Sentence is p for people who do not look at the genome.
func (p Problem) Sentence() string {
	if p.Hint == "" {
		return p.Text
	}
	return fmt.Sprintf("%s (did you mean %q?)", p.Text, p.Hint)
}

// Validate returns everything that is wrong with g, in the order of the keys;
// nil if g can be run. It looks at g alone: not at files, not at the network.
func (g *Genome) Validate() []Problem {
	c := &checker{g: g}
	c.kernel()
	c.golgi()
	c.plugins()
	c.workspace()
	total := 0
	for _, name := range slices.Sorted(maps.Keys(g.Cells)) {
		c.cell(name, g.Cells[name])
		total += g.Cells[name].Replicas
	}
	if len(g.Cells) > MaxCells {
		c.addf([]string{"cells"}, "at most %d cells, got %d", MaxCells, len(g.Cells))
	} else {
		c.cycles()
	}
	if total > maxTotal {
		c.addf([]string{"cells"}, "at most %d replicas in all, got %d", maxTotal, total)
	}
	slices.SortStableFunc(c.out, func(a, b Problem) int { return slices.Compare(a.Key, b.Key) })
	return c.out
}

type checker struct {
	g   *Genome
	out []Problem
}

func (c *checker) addf(key []string, format string, args ...any) *Problem {
	c.out = append(c.out, Problem{Key: slices.Clone(key), Text: fmt.Sprintf(format, args...)})
	return &c.out[len(c.out)-1]
}

func (c *checker) check(key []string, err error) {
	if err != nil {
		c.addf(key, "%v", err)
	}
}

// between demands low <= v <= high.
func between[T int | int64 | float64 | Bytes](c *checker, key []string, v, low, high T) {
	if !(v >= low && v <= high) { // false for NaN, too
		c.addf(key, "want %v to %v, got %v", low, high, v)
	}
}

func (c *checker) duration(key []string, v, low time.Duration) {
	if v < low || v > maxTime {
		c.addf(key, "want %v to %v, got %v", low, maxTime, v)
	}
}

func (c *checker) oneOf(key []string, v string, words ...string) {
	if !slices.Contains(words, v) {
		c.addf(key, "want %s, got %.40q", orList(words), v).Hint = Nearest(v, words)
	}
}

// orList renders `"a", "b" or "c"`.
func orList(words []string) string {
	s := fmt.Sprintf("%q", words[0])
	for i, w := range words[1:] {
		sep := ", "
		if i == len(words)-2 {
			sep = " or "
		}
		s += fmt.Sprintf("%s%q", sep, w)
	}
	return s
}

func (c *checker) budget(key []string, b Budget) {
	between(c, sub(key, "max"), b.Max, 0, 1000)
	c.duration(sub(key, "within"), b.Within, time.Second)
}

func (c *checker) limits(key []string, l Limits) {
	between(c, sub(key, "cpus"), l.CPUs, 0, 4096)
	between(c, sub(key, "pids"), l.Pids, 0, 1<<22)
	if l.Memory != 0 {
		between(c, sub(key, "memory"), l.Memory, 1<<20, 1<<50)
	}
}

func (c *checker) kernel() {
	k := c.g.Kernel
	if _, err := sdk.ParseCellName(k.Node); err != nil {
		c.addf([]string{"kernel", "node"}, "want 1 to 63 lower-case letters, digits and inner hyphens, got %.70q", k.Node)
	}
	if _, err := sdk.ParseCellName(k.Mesh); err != nil && k.Mesh != "" {
		c.addf([]string{"kernel", "mesh"}, "want 1 to 63 lower-case letters, digits and inner hyphens, got %.70q", k.Mesh)
	}
	if k.Metrics != "" {
		c.check([]string{"kernel", "metrics"}, checkHostPort(k.Metrics))
	}
	between(c, []string{"kernel", "log_size"}, k.LogSize, 1<<20, 1<<40)
	between(c, []string{"kernel", "log_backups"}, k.LogBackups, 0, 100)
	if k.LogRate != 0 {
		between(c, []string{"kernel", "log_rate"}, k.LogRate, 1<<10, 1<<40)
	}
	between(c, []string{"kernel", "price"}, k.Price, 0, 1000)
	between(c, []string{"kernel", "node_calls"}, k.NodeCalls, 1, 1<<16)
	between(c, []string{"kernel", "max_price"}, k.MaxPrice, 0, 1000)
	between(c, []string{"kernel", "credit"}, k.Credit, 0, 1<<40)
	between(c, []string{"kernel", "debt"}, k.Debt, 0, 1<<40)
	if k.Donor && c.g.Golgi.Ledger == "" {
		c.addf([]string{"kernel", "donor"}, "a donor keeps books: set \"golgi.ledger\"")
	}
}

func (c *checker) golgi() {
	g := c.g.Golgi
	key := func(name string) []string { return []string{"golgi", name} }
	c.check(key("listen"), checkHostPort(g.Listen))
	if !slices.ContainsFunc(g.Transports, func(e string) bool { return PluginName(sdk.KindTransport, e) == "uds" }) {
		c.addf(key("transports"), "\"uds\" is missing: processes of one machine reach each other by it")
	}
	c.oneOf(key("balance"), g.Balance, "p2c")
	between(c, key("links"), g.Links, 1, 64)
	between(c, key("retries"), g.Retries, 0, 2)
	between(c, key("max_message"), g.MaxMessage, 64<<10, 1<<30)
	c.duration(key("deadline"), g.Deadline, time.Millisecond)
	c.budget(key("plugin_restarts"), g.PluginRestarts)
	for _, kind := range sdk.Kinds() {
		c.selected(kind, c.g.entries(kind))
	}
}

// GolgiKey is the key of golgi that lists the plugins of a kind.
func GolgiKey(kind sdk.Kind) []string {
	if kind == sdk.KindTransport {
		return []string{"golgi", "transports"}
	}
	return []string{"golgi", string(kind)}
}

// selected checks the plugins listed for one kind.
func (c *checker) selected(kind sdk.Kind, entries []string) {
	if len(entries) > maxPlugins {
		c.addf(GolgiKey(kind), "at most %d, got %d", maxPlugins, len(entries))
		return
	}
	seen := map[string]string{}
	for _, e := range entries {
		name := PluginName(kind, e)
		if _, err := sdk.ParseCellName(name); err != nil {
			c.addf(GolgiKey(kind), "plugin %.80q: want a bundled name or the path of an executable", e)
		}
		if other, ok := seen[name]; ok {
			c.addf(GolgiKey(kind), "plugins %q and %q are both called %s-%s", other, e, kind, name)
		}
		seen[name] = e
		if s := c.g.Plugins[string(kind)+"-"+name]; s.Use != "" && isPath(e) {
			c.addf([]string{"plugins", string(kind) + "-" + name, "use"}, "%s names the path %q already", strings.Join(GolgiKey(kind), "."), e)
		}
	}
}

var sha256Text = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (c *checker) plugins() {
	if len(c.g.Plugins) > maxPlugins {
		c.addf([]string{"plugins"}, "at most %d sections, got %d", maxPlugins, len(c.g.Plugins))
		return
	}
	for _, name := range slices.Sorted(maps.Keys(c.g.Plugins)) {
		key, p := []string{"plugins", name}, c.g.Plugins[name]
		kind, instance, _ := strings.Cut(name, "-")
		if _, err := sdk.ParseKind(kind); err != nil {
			kinds := []string{"transport", "discovery", "ledger", "billing"}
			problem := c.addf(key, "want [plugins.KIND-NAME] with KIND transport, discovery, ledger or billing")
			if near := Nearest(kind, kinds); near != "" {
				problem.Hint = near + "-" + instance
			}
			continue
		}
		if _, err := sdk.ParseCellName(instance); err != nil {
			c.addf(key, "want [plugins.%s-NAME], NAME of lower-case letters, digits and inner hyphens", kind)
			continue
		}
		c.plugin(key, c.g.ref(sdk.Kind(kind), instance), p)
	}
}

func (c *checker) plugin(key []string, r PluginRef, p Plugin) {
	c.limits(sub(key, "limits"), p.Limits)
	for _, e := range c.g.entries(r.Kind) {
		if PluginName(r.Kind, e) == r.Instance && p.Use == "" {
			r.Use = e
		}
	}
	if p.SHA256 == "" {
		return
	}
	if !sha256Text.MatchString(p.SHA256) {
		c.addf(sub(key, "sha256"), "want 64 lower-case hexadecimal digits, got %.70q", p.SHA256)
	}
	if !isPath(r.Use) {
		c.addf(sub(key, "sha256"), "pins an executable, but %q is a bundled plugin", r.Use)
	}
}

func (c *checker) workspace() {
	main := c.g.Workspace.Main
	if main == "" {
		return
	}
	key := []string{"workspace", "main"}
	m, ok := c.g.Cells[main]
	if !ok {
		c.addf(key, "no cell %q in this genome", main).Hint = Nearest(string(main), c.cellNames())
		return
	}
	if m.Replicas > 1 {
		c.addf(key, "cell %q has %d replicas: the main cell has one", main, m.Replicas)
	}
}

func (c *checker) cellNames() []string {
	var names []string
	for _, n := range slices.Sorted(maps.Keys(c.g.Cells)) {
		names = append(names, string(n))
	}
	return names
}

func (c *checker) cycles() {
	for _, ring := range c.g.rings() {
		e := &CycleError{Ring: ring}
		from, to := ring[0], ring[1%len(ring)]
		for alias, a := range c.g.Cells[from].Axons {
			if a.Wait && slices.Contains(a.To, Target{Cell: to}) {
				c.addf([]string{"cells", string(from), "axons", string(alias)}, "%v", e)
				break
			}
		}
	}
}

// sub returns key with one more element, in memory of its own.
func sub(key []string, name string) []string {
	return append(slices.Clone(key), name)
}
