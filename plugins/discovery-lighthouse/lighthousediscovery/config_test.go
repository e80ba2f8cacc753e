package lighthousediscovery_test

import (
	"strings"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/lighthousediscovery"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

func TestConfig(t *testing.T) {
	many := make([]string, 17)
	for i := range many {
		many[i] = "a" + strings.Repeat("b", i) + ":1"
	}
	for name, c := range map[string]struct {
		servers       []string
		beat, timeout time.Duration
		want          string // in the error; empty: none
	}{
		"good":        {[]string{"203.0.113.7:9443", "[2001:db8::7]:9443", "lighthouse.example:9443"}, 0, 0, ""},
		"none":        {nil, 0, 0, `key "servers": 0 lighthouses`},
		"many":        {many, 0, 0, `17 lighthouses`},
		"twice":       {[]string{"a:1", "a:1"}, 0, 0, `key "servers[1]": "a:1" is there twice`},
		"no port":     {[]string{"a"}, 0, 0, `key "servers[0]": "a": want "host:port"`},
		"port 0":      {[]string{"a:0"}, 0, 0, `want "host:port"`},
		"port":        {[]string{"a:65536"}, 0, 0, `want "host:port"`},
		"no host":     {[]string{":9443"}, 0, 0, `want "host:port"`},
		"url":         {[]string{"udp://a:9443"}, 0, 0, `servers[0]`},
		"space":       {[]string{"a b:9443"}, 0, 0, `no name of a host`},
		"key":         {[]string{"a:9443#key"}, 0, 0, `want "host:port"`},
		"short beat":  {[]string{"a:1"}, time.Millisecond, 0, `key "beat": 1ms: want 500ms to 10s`},
		"long beat":   {[]string{"a:1"}, time.Minute, 0, `key "beat"`},
		"short":       {[]string{"a:1"}, 0, time.Millisecond, `key "timeout"`},
		"no patience": {[]string{"a:1"}, 0, time.Hour, `key "timeout"`},
	} {
		cfg := lighthousediscovery.DefaultConfig()
		cfg.Servers = c.servers
		if c.beat != 0 {
			cfg.Beat = plugin.Duration(c.beat)
		}
		if c.timeout != 0 {
			cfg.Timeout = plugin.Duration(c.timeout)
		}
		err := cfg.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}
