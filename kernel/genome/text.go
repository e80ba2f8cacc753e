package genome

import (
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"

	"github.com/cellkernel/cellkernel/sdk"
)

// Bytes is a size: "512MiB", "10MB", "4096". It is never negative when parsed.
type Bytes int64

// units from the largest; binary ones come first so that a round binary size
// prints as one.
var units = []struct {
	name string
	size int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3}, {"B", 1},
}

// UnmarshalText parses a whole number with an optional unit.
func (b *Bytes) UnmarshalText(text []byte) error {
	s, size := string(text), int64(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			s, size = rest, u.size
			break
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/size {
		return fmt.Errorf("want a size such as \"512MiB\", got %.40q", text)
	}
	*b = Bytes(n * size)
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// String returns b with the largest unit that divides it.
func (b Bytes) String() string {
	for _, u := range units {
		if n := int64(b); n != 0 && u.size > 1 && n%u.size == 0 {
			return strconv.FormatInt(n/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// A Target is one place where an axon leads: a cell by name, wherever it is
// found, or at an address. Its text is "axon://name" or
// "axon://host:port/name".
type Target struct {
	Cell sdk.CellName
	Host string // host:port, empty: wherever it is found
}

// UnmarshalText parses the text form.
func (t *Target) UnmarshalText(text []byte) error {
	rest, ok := strings.CutPrefix(string(text), "axon://")
	if !ok || len(text) > 512 {
		return fmt.Errorf("want axon://name or axon://host:port/name, got %.80q", text)
	}
	host, name, ok := strings.Cut(rest, "/")
	if !ok {
		host, name = "", rest
	}
	if strings.Contains(name, ":") {
		return fmt.Errorf("want axon://name or axon://host:port/name, got %.80q", text)
	}
	if ok {
		if err := checkHostPort(host); err != nil {
			return err
		}
	}
	cell, err := sdk.ParseCellName(name)
	if err != nil {
		return err
	}
	*t = Target{Cell: cell, Host: host}
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (t Target) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// String returns the text form.
func (t Target) String() string {
	if t.Host != "" {
		return "axon://" + t.Host + "/" + string(t.Cell)
	}
	return "axon://" + string(t.Cell)
}

// Listen says whether and where other machines may call a cell: "true",
// "false", or an address of its own such as "quic://0.0.0.0:9001". The zero
// Listen is "false".
type Listen struct {
	On   bool
	Addr sdk.Addr // zero: golgi.listen
}

// UnmarshalText parses the text form.
func (l *Listen) UnmarshalText(text []byte) error {
	switch s := string(text); s {
	case "false":
		*l = Listen{}
	case "true":
		*l = Listen{On: true}
	default:
		addr, err := sdk.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("want true, false or an address such as \"quic://0.0.0.0:9001\", got %.80q", s)
		}
		*l = Listen{On: true, Addr: addr}
	}
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (l Listen) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// String returns the text form.
func (l Listen) String() string {
	if l.Addr.Scheme != "" {
		return l.Addr.String()
	}
	return strconv.FormatBool(l.On)
}

// checkHostPort accepts host:port with a numeric port.
func checkHostPort(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || len(s) > 261 {
		return fmt.Errorf("want host:port, got %.80q", s)
	}
	return nil
}
