package genome

import (
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

func (c *checker) cell(name sdk.CellName, cell *Cell) {
	key := []string{"cells", string(name)}
	if _, err := sdk.ParseCellName(string(name)); err != nil {
		c.check(key, err)
	} else if name.Reserved() {
		c.addf(key, "%q is a name of the kernel's own", name)
	}
	c.program(key, cell)
	between(c, sub(key, "replicas"), cell.Replicas, 1, MaxReplicas)
	between(c, sub(key, "concurrency"), cell.Concurrency, 0, 1<<20)
	c.oneOf(sub(key, "restart"), cell.Restart, RestartAlways, RestartOnFailure, RestartNever)
	if cell.Job && cell.Restart == RestartAlways {
		c.addf(sub(key, "restart"), "a job runs once: want \"on-failure\" or \"never\"")
	}
	c.budget(sub(key, "restarts"), cell.Restarts)
	c.ready(sub(key, "ready"), cell.Ready)
	c.limits(sub(key, "limits"), cell.Limits)
	c.duration(sub(key, "start_timeout"), cell.StartTimeout, 100*time.Millisecond)
	c.duration(sub(key, "drain_timeout"), cell.DrainTimeout, 0)
	if cell.Listen.On && cell.Ready.Probe() {
		c.addf(sub(key, "listen"), "a command that is given ready does not speak the sdk: only cells that do can be called by other machines")
	} else {
		c.listen(sub(key, "listen"), cell.Listen)
	}
	c.allow(sub(key, "allow"), cell.Allow)
	c.axons(sub(key, "axons"), cell)
	c.junctions(sub(key, "junctions"), cell)
}

// program checks that there is exactly one way to start the cell.
func (c *checker) program(key []string, cell *Cell) {
	switch hasPackage, hasCommand := cell.Package != "", len(cell.Command) > 0; {
	case hasPackage && hasCommand:
		c.addf(sub(key, "command"), "package and command are both set: want one of them")
	case !hasPackage && !hasCommand:
		c.addf(sub(key, "package"), "neither package nor command is set: want one of them").Also = []string{"command"}
	case hasCommand && cell.Command[0] == "":
		c.addf(sub(key, "command"), "the program is empty")
	}
	c.noNUL(sub(key, "command"), cell.Command)
	c.noNUL(sub(key, "args"), cell.Args)
	for _, k := range slices.Sorted(maps.Keys(cell.Env)) {
		switch {
		case k == "" || strings.ContainsAny(k, "=\x00"):
			c.addf(sub(sub(key, "env"), k), "not a name for a variable")
		case strings.HasPrefix(k, "CELLKERNEL_"):
			c.addf(sub(sub(key, "env"), k), "variables that begin with CELLKERNEL_ are the kernel's own")
		}
		c.noNUL(sub(sub(key, "env"), k), []string{cell.Env[k]})
	}
}

func (c *checker) noNUL(key []string, words []string) {
	if slices.ContainsFunc(words, func(w string) bool { return strings.ContainsRune(w, 0) }) {
		c.addf(key, "contains a NUL character")
	}
}

func (c *checker) ready(key []string, r Ready) {
	set := 0
	for _, on := range []bool{r.TCP != "", r.HTTP != "", len(r.Exec) > 0} {
		if on {
			set++
		}
	}
	if set > 1 {
		c.addf(key, "want one of tcp, http and exec, got %d", set)
	}
	if r.TCP != "" {
		c.check(sub(key, "tcp"), checkHostPort(r.TCP))
	}
	if u, err := url.Parse(r.HTTP); r.HTTP != "" && (err != nil || u.Scheme != "http" || u.Host == "") {
		c.addf(sub(key, "http"), "want a URL such as \"http://127.0.0.1:8080/health\", got %.80q", r.HTTP)
	}
	if len(r.Exec) > 0 && r.Exec[0] == "" {
		c.addf(sub(key, "exec"), "the program is empty")
	}
	c.noNUL(sub(key, "exec"), r.Exec)
	c.duration(sub(key, "within"), r.Within, 100*time.Millisecond)
}

func (c *checker) listen(key []string, l Listen) {
	if !l.On {
		return
	}
	remote := c.g.RemoteTransports()
	switch {
	case l.Addr.Scheme == "uds":
		c.addf(key, "uds does not leave this machine; another kernel on it uses a junction")
	case l.Addr.Scheme != "" && !slices.Contains(remote, l.Addr.Scheme):
		c.addf(key, "transport %q is missing in golgi.transports = %q", l.Addr.Scheme, c.g.Golgi.Transports).Hint = Nearest(l.Addr.Scheme, remote)
	case len(remote) == 0:
		c.addf(key, "a transport that leaves this machine, such as \"quic\", is missing in golgi.transports = %q", c.g.Golgi.Transports)
	}
}

func (c *checker) allow(key, allow []string) {
	if len(allow) > maxPerCell {
		c.addf(key, "at most %d entries, got %d", maxPerCell, len(allow))
		return
	}
	for _, a := range allow {
		if _, err := sdk.ParseNodeID(a); err == nil {
			continue
		}
		if _, err := sdk.ParseCellName(a); err != nil {
			c.addf(key, "want cell names and node ids, got %.70q", a)
		}
	}
}

func (c *checker) axons(key []string, cell *Cell) {
	if len(cell.Axons) > maxPerCell {
		c.addf(key, "at most %d, got %d", maxPerCell, len(cell.Axons))
		return
	}
	for _, name := range slices.Sorted(maps.Keys(cell.Axons)) {
		key, a := sub(key, string(name)), cell.Axons[name]
		if _, err := sdk.ParseCellName(string(name)); err != nil {
			c.check(key, err)
		} else if name.Reserved() {
			c.addf(key, "%q is a name of the kernel's own", name)
		}
		if len(a.To) == 0 || len(a.To) > maxTargets {
			c.addf(sub(key, "to"), "want 1 to %d targets, got %d", maxTargets, len(a.To))
		}
		for _, t := range a.To {
			c.target(sub(key, "to"), t)
		}
		for _, id := range a.Peers {
			if _, err := sdk.ParseNodeID(string(id)); err != nil {
				c.check(sub(key, "peers"), err)
			}
		}
		c.oneOf(sub(key, "spread"), a.Spread, "score", "local", "even")
		c.inheriting(key, a)
	}
}

// inheriting checks what an axon has from [golgi] where it says nothing. What
// is wrong there is one mistake, not one of each axon.
func (c *checker) inheriting(key []string, a *Axon) {
	g := c.g.Golgi
	if a.Links != g.Links {
		between(c, sub(key, "links"), a.Links, 1, 64)
	}
	if a.Retries != g.Retries {
		between(c, sub(key, "retries"), a.Retries, 0, 2)
	}
	if a.Timeout != g.Deadline {
		c.duration(sub(key, "timeout"), a.Timeout, time.Millisecond)
	}
}

// target checks that there is a way to reach t.
func (c *checker) target(key []string, t Target) {
	switch {
	case t.Cell.Reserved():
		c.addf(key, "%s: %q is a name of the kernel's own", t, t.Cell)
	case t.Host != "":
		if len(c.g.RemoteTransports()) == 0 {
			c.addf(key, "%s: a transport that leaves this machine, such as \"quic\", is missing in golgi.transports = %q", t, c.g.Golgi.Transports)
		}
	case c.g.Cells[t.Cell] == nil && len(c.g.Golgi.Discovery) == 0:
		c.addf(key, "%s: no cell %q in this genome, no address, and golgi.discovery is empty", t, t.Cell).
			Hint = Nearest(string(t.Cell), c.cellNames())
	}
}

func (c *checker) junctions(key []string, cell *Cell) {
	if len(cell.Junctions) > maxPerCell {
		c.addf(key, "at most %d, got %d", maxPerCell, len(cell.Junctions))
		return
	}
	for _, name := range slices.Sorted(maps.Keys(cell.Junctions)) {
		key := sub(key, string(name))
		if _, err := sdk.ParseCellName(string(name)); err != nil {
			c.check(key, err)
		} else if name.Reserved() {
			c.addf(key, "%q is a name of the kernel's own", name)
		}
		if cell.Axons[name] != nil {
			c.addf(key, "%q is an axon, too: want one of them", name)
		}
		if cell.Junctions[name] == "" {
			c.addf(key, "want the directory of another genome")
		}
	}
}
