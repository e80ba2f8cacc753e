package result

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Table writes the report for people.
func (r *Report) Table(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "%s\n\n", r.Machine); err != nil {
		return err
	}
	if err := table(w, "NAME\tSYSTEM\tPAYLOAD\tIN FLIGHT\tCALLS\tERRORS\tCALLS/S\tP50 us\tP99 us\tP99.9 us\t", r.rows()); err != nil {
		return err
	}
	if len(r.Ratios) > 0 {
		if err := table(w, "\nCALLS/S OF CELLKERNEL\tBY GRPC\tBY RAW\t", r.ratios()); err != nil {
			return err
		}
	}
	return Claims(w, "CELL'S CLAIMS", r.Claims)
}

// Claims writes a table of verdicts under a title.
func Claims(w io.Writer, title string, claims []Claim) error {
	width := len(title)
	for _, c := range claims {
		width = max(width, len(c.Claim))
	}
	if _, err := fmt.Fprintf(w, "\n%-*s  %20s  %20s  VERDICT\n", width, title, "MEASURED", "BOUND"); err != nil {
		return err
	}
	for _, c := range claims {
		if _, err := fmt.Fprintf(w, "%-*s  %20s  %20s  %s\n", width, c.Claim, c.Value, c.Bound, verdict(c.OK)); err != nil {
			return err
		}
	}
	return nil
}

func verdict(ok bool) string {
	if ok {
		return "holds"
	}
	return "does not hold"
}

func (r *Report) rows() []string {
	var lines []string
	for _, row := range r.Results {
		lines = append(lines, fmt.Sprintf("%s\t%s\t%d\t%d\t%d\t%d\t%.0f\t%.1f\t%.1f\t%.1f\t",
			row.Name, row.System, row.PayloadBytes, row.InFlight, row.Calls, row.Errors, row.CallsPerS, row.P50US, row.P99US, row.P999US))
	}
	return lines
}

// ratios keeps the order of the rows.
func (r *Report) ratios() []string {
	var lines []string
	left := maps.Clone(r.Ratios)
	for _, row := range r.Results {
		ratio, ok := left[row.Key()]
		if !ok {
			continue
		}
		delete(left, row.Key())
		lines = append(lines, fmt.Sprintf("%s\t%s\t%s\t", row.Key(), times(ratio.VsGRPC), times(ratio.VsRaw)))
	}
	return lines
}

func times(x float64) string {
	if x == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f x", x)
}

func table(w io.Writer, head string, lines []string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, line := range slices.Insert(lines, 0, strings.Split(head, "\n")...) {
		if _, err := fmt.Fprintln(tw, line); err != nil {
			return err
		}
	}
	return tw.Flush()
}
