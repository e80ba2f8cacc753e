package plugin_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

type settings struct {
	Interval plugin.Duration `json:"interval"`
	Servers  []server        `json:"servers"`
	Names    []string        `json:"names"`
	Limits2  map[string]int  `json:"weights"`
	Nested   struct {
		TTL int `json:"ttl"`
	} `json:"nested"`
	Plain string
	Count uint8 `json:"count"`
}

type server struct {
	Addr string `json:"addr"`
	Port int    `json:"port"`
}

func (s settings) Validate() error {
	if s.Count == 13 {
		return errors.New("key \"count\": 13 brings bad luck")
	}
	return nil
}

func defaults() settings {
	return settings{Interval: plugin.Duration(time.Second), Servers: []server{{"a", 1}, {"b", 2}}, Names: []string{"x"}, Plain: "default"}
}

// open decodes config and returns what New got.
func open(t *testing.T, config map[string]any) (settings, error) {
	t.Helper()
	var got settings
	p := plugin.Billing("conf", defaults(), func(_ context.Context, s settings, _ plugin.Host) (*probe, error) {
		got = s
		return &probe{}, nil
	})
	c, err := plugin.Pipe(t.Context(), p, plugin.Options{Config: config})
	if err == nil {
		c.Stop(t.Context())
	}
	return got, err
}

func TestConfigIsDecodedOverDefaults(t *testing.T) {
	got, err := open(t, nil)
	if err != nil || got.Interval != plugin.Duration(time.Second) || len(got.Servers) != 2 || got.Plain != "default" {
		t.Errorf("without a section: %+v, %v", got, err)
	}
	got, err = open(t, map[string]any{
		"interval": "250ms", "plain": "p", "nested": map[string]any{"ttl": 5},
		"servers": []any{map[string]any{"addr": "c"}}, "weights": map[string]any{"k": 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	// A list replaces the default, and its elements inherit nothing.
	if got.Interval != plugin.Duration(250*time.Millisecond) || len(got.Servers) != 1 || got.Servers[0] != (server{Addr: "c"}) ||
		got.Nested.TTL != 5 || got.Plain != "p" || got.Limits2["k"] != 1 || len(got.Names) != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestConfigMistakes(t *testing.T) {
	for name, c := range map[string]struct {
		config map[string]any
		want   []string
	}{
		"misspelt":   {map[string]any{"intervall": "1s"}, []string{`unknown key "intervall" (did you mean "interval"?)`}},
		"strange":    {map[string]any{"zzzzzzzzzzz": 1}, []string{`unknown key "zzzzzzzzzzz": want one of count, interval,`}},
		"two":        {map[string]any{"nmaes": 1, "cuont": 2}, []string{`"names"`, `"count"`}},
		"case":       {map[string]any{"Names": []any{}}, []string{`unknown key "Names" (did you mean "names"?)`}},
		"nested":     {map[string]any{"nested": map[string]any{"tll": 1}}, []string{`unknown key "nested.tll" (did you mean "ttl"?)`}},
		"in a list":  {map[string]any{"servers": []any{map[string]any{"adr": 1}}}, []string{`unknown key "servers[0].adr" (did you mean "addr"?)`}},
		"type":       {map[string]any{"count": "many"}, []string{`key "count": want a whole number that fits uint8, got string`}},
		"range":      {map[string]any{"count": 256}, []string{`key "count": want a whole number that fits uint8, got number 256`}},
		"fraction":   {map[string]any{"nested": map[string]any{"ttl": 1.5}}, []string{"nested.ttl", "whole number"}},
		"duration":   {map[string]any{"interval": "soon"}, []string{`"soon" is no duration`}},
		"number":     {map[string]any{"interval": 5}, []string{"interval", "a string"}},
		"table":      {map[string]any{"nested": "x"}, []string{`key "nested": want a table, got string`}},
		"kernel's":   {map[string]any{"use": "x", "sha256": "y"}, []string{`key "use" belongs to the kernel`, "sha256"}},
		"impossible": {map[string]any{"count": 13}, []string{"bad luck"}},
		"long":       {map[string]any{strings.Repeat("k", 10_000): 1}, []string{"unknown key"}},
	} {
		_, err := open(t, c.config)
		if sdk.CodeOf(err) != sdk.CodeInvalid {
			t.Errorf("%s: got %v, want code invalid", name, err)
			continue
		}
		for _, want := range append(c.want, "billing(conf): open: ") {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %q, want %q in it", name, err, want)
			}
		}
		if len(err.Error()) > 1500 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
}

func TestMistakesOfAuthorsPanicAtOnce(t *testing.T) {
	for name, define := range map[string]func(){
		"name":     func() { plugin.Billing("Bad Name", struct{}{}, openNothing[struct{}]) },
		"no table": func() { plugin.Billing("a", 5, openNothing[int]) },
		"reserved": func() {
			plugin.Billing("a", struct{ Use string }{}, openNothing[struct{ Use string }])
		},
		"func": func() {
			plugin.Billing("a", struct{ F func() }{}, openNothing[struct{ F func() }])
		},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			define()
		})
	}
}

func openNothing[C any](context.Context, C, plugin.Host) (*probe, error) { return &probe{}, nil }
