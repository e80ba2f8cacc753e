// Package result is what the examples that measure write: rows, ratios and
// verdicts, as tables for people and as one JSON object for programs.
package result

import (
	"encoding/json"
	"fmt"
	"os"
)

// The systems that are measured, on one machine and between two.
const (
	Cellkernel     = "cellkernel"
	GRPC           = "grpc"
	Raw            = "raw"
	CellkernelQUIC = "cellkernel-quic"
	GRPCTLS        = "grpc-tcp-tls"
	RawQUIC        = "quic-raw"
)

// Role says which part a system has in a comparison: ours is [Cellkernel], the
// one to beat [GRPC], the limit [Raw].
func Role(system string) string {
	switch system {
	case CellkernelQUIC:
		return Cellkernel
	case GRPCTLS:
		return GRPC
	case RawQUIC:
		return Raw
	}
	return system
}

// A Report is everything one run measured.
type Report struct {
	Machine Machine          `json:"machine"`
	Results []Row            `json:"results"`
	Ratios  map[string]Ratio `json:"ratios"` // by Row.Key
	Claims  []Claim          `json:"claims"`
}

// A Row is one workload on one system.
type Row struct {
	Name         string  `json:"name"`
	System       string  `json:"system"`
	PayloadBytes int     `json:"payload_bytes"`
	InFlight     int     `json:"in_flight"`
	Calls        uint64  `json:"calls"`  // over all rounds, without warming up
	Errors       uint64  `json:"errors"` // of these calls
	CallsPerS    float64 `json:"calls_per_s"`
	P50US        float64 `json:"p50_us"`
	P99US        float64 `json:"p99_us"`
	P999US       float64 `json:"p999_us"`
}

// Key names what is compared between systems: "echo-64B/64".
func (r Row) Key() string { return fmt.Sprintf("%s/%d", r.Name, r.InFlight) }

// A Ratio is calls per second of cellkernel divided by those of another
// system in the same run: above 1 cellkernel is faster. 0 means that the other
// one was not measured.
type Ratio struct {
	VsGRPC float64 `json:"vs_grpc"`
	VsRaw  float64 `json:"vs_raw"`
}

// A Claim is a sentence, what was measured, and whether it holds.
type Claim struct {
	Claim string `json:"claim"`
	Value string `json:"value"`
	Bound string `json:"bound"`
	OK    bool   `json:"ok"`
}

// Ratios compares the rows of one run.
func Ratios(rows []Row) map[string]Ratio {
	rates := map[string]map[string]float64{}
	for _, r := range rows {
		if rates[r.Key()] == nil {
			rates[r.Key()] = map[string]float64{}
		}
		rates[r.Key()][Role(r.System)] = r.CallsPerS
	}
	ratios := map[string]Ratio{}
	for key, by := range rates {
		ours, ok := by[Cellkernel]
		if !ok || len(by) == 1 {
			continue
		}
		ratios[key] = Ratio{VsGRPC: over(ours, by[GRPC]), VsRaw: over(ours, by[Raw])}
	}
	return ratios
}

func over(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// Find returns the row of a workload on a system, and whether there is one.
func Find(rows []Row, name string, inFlight int, system string) (Row, bool) {
	for _, r := range rows {
		if r.Name == name && r.InFlight == inFlight && r.System == system {
			return r, true
		}
	}
	return Row{}, false
}

// Write writes r as JSON to the file path, which it replaces.
func (r *Report) Write(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// Read reads what Write wrote.
func Read(path string) (*Report, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	r := new(Report)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("read report %s: %w", path, err)
	}
	return r, nil
}
