package result_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/examples/bench/result"
)

func report() *result.Report {
	r := &result.Report{
		Machine: result.ThisMachine(),
		Results: []result.Row{
			{Name: "echo", System: result.Cellkernel, PayloadBytes: 64, InFlight: 8, Calls: 10, CallsPerS: 300, P50US: 1.5, P99US: 2, P999US: 3},
			{Name: "echo", System: result.GRPC, PayloadBytes: 64, InFlight: 8, Calls: 10, CallsPerS: 100},
			{Name: "echo", System: result.Raw, PayloadBytes: 64, InFlight: 8, Calls: 10, CallsPerS: 600},
			{Name: "burn", System: result.Cellkernel, InFlight: 8, Calls: 10, CallsPerS: 1},
			{Name: "other", System: result.Cellkernel, InFlight: 1, Calls: 1, CallsPerS: 4},
			{Name: "other", System: result.Raw, InFlight: 1, Calls: 1, CallsPerS: 8},
		},
		Claims: []result.Claim{{Claim: "fast", Value: "9", Bound: ">= 8", OK: true}},
	}
	r.Ratios = result.Ratios(r.Results)
	return r
}

func TestRatios(t *testing.T) {
	got := report().Ratios
	if len(got) != 2 || got["echo/8"] != (result.Ratio{VsGRPC: 3, VsRaw: 0.5}) || got["other/1"] != (result.Ratio{VsRaw: 0.5}) {
		t.Errorf("got %v", got)
	}
}

// Programs read these keys.
func TestJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.json")
	if err := report().Write(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Machine map[string]any            `json:"machine"`
		Results []map[string]any          `json:"results"`
		Ratios  map[string]map[string]any `json:"ratios"`
		Claims  []map[string]any          `json:"claims"`
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"name", "system", "payload_bytes", "in_flight", "calls", "errors", "calls_per_s", "p50_us", "p99_us", "p999_us"} {
		if _, ok := got.Results[0][key]; !ok {
			t.Errorf("results: no %q", key)
		}
	}
	if got.Ratios["echo/8"]["vs_grpc"] != 3.0 || got.Ratios["echo/8"]["vs_raw"] != 0.5 {
		t.Errorf("ratios: got %v", got.Ratios)
	}
	if len(got.Claims) != 1 || got.Machine["cores"] == nil {
		t.Errorf("claims %v, machine %v", got.Claims, got.Machine)
	}
	again, err := result.Read(path)
	if err != nil || len(again.Results) != 6 {
		t.Errorf("read again: %v", err)
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	if err := report().Table(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"3.00 x", "0.50 x", "fast", "holds"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}
