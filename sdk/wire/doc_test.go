package wire_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// table returns the rows of the table of docs/wire.md whose header begins with
// the given cells.
func table(t *testing.T, head ...string) [][]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows [][]string
	in := false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			in = false
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case in && !strings.HasPrefix(cells[0], "---"):
			rows = append(rows, cells)
		case len(cells) >= len(head) && strings.Join(cells[:len(head)], "|") == strings.Join(head, "|"):
			in = true
		}
	}
	if len(rows) == 0 {
		t.Fatalf("docs/wire.md has no table %q", head)
	}
	return rows
}

func TestTheSpecificationHasTheseKinds(t *testing.T) {
	rows := table(t, "number", "kind")
	if len(rows) != len(allowed) {
		t.Errorf("%d kinds in the table, %d in the code", len(rows), len(allowed))
	}
	for i, r := range rows {
		k := wire.Kind(i + 1)
		body := "yes"
		if bodiless[k] {
			body = "no"
		}
		flags := strings.ReplaceAll(flagText(allowed[k]), "+", " ")
		if want := []string{fmt.Sprint(i + 1), k.String(), flags, body}; r[0] != want[0] || r[1] != want[1] || r[3] != want[2] || r[4] != want[3] {
			t.Errorf("row is %q, want %q", r, want)
		}
	}
}

func TestTheSpecificationHasTheseFlags(t *testing.T) {
	rows := table(t, "bit", "flag")
	if len(rows) != len(flagNames) {
		t.Errorf("%d flags in the table, %d in the code", len(rows), len(flagNames))
	}
	for i, r := range rows {
		if r[0] != fmt.Sprint(i) || r[1] != flagNames[i].name || flagNames[i].flag != 1<<i {
			t.Errorf("row is %q, want flag %d %s", r, i, flagNames[i].name)
		}
	}
}

func TestTheSpecificationHasTheseLimits(t *testing.T) {
	want := map[string]int{
		"HeaderSize": wire.HeaderSize, "MaxPayload": wire.MaxPayload, "MaxMeta": wire.MaxMeta, "MaxBody": wire.MaxBody, "MaxFrame": wire.MaxFrame,
		"FragmentLen": wire.FragmentLen, "MaxSettings": wire.MaxSettings, "MaxMethods": wire.MaxMethods, "MaxLinkHeader": wire.MaxLinkHeader,
	}
	rows := table(t, "limit", "value")
	if len(rows) != len(want) {
		t.Errorf("%d limits in the table, %d in the code", len(rows), len(want))
	}
	for _, r := range rows {
		if v, ok := want[r[0]]; !ok || fmt.Sprint(v) != r[1] {
			t.Errorf("row is %q, the code has %d", r, v)
		}
	}
}

func TestTheSpecificationHasTheseErrors(t *testing.T) {
	rows := table(t, "code", "name")
	for i, r := range rows {
		if code := sdk.Code(i + 1); r[0] != fmt.Sprint(i+1) || r[1] != code.String() {
			t.Errorf("row is %q, want %d %s", r, i+1, code)
		}
	}
	if next := sdk.Code(len(rows) + 1); !strings.Contains(next.String(), "(") {
		t.Errorf("%s is not in the table", next)
	}
	for i, r := range table(t, "executed", "name") {
		if e := sdk.Executed(i); r[0] != fmt.Sprint(i) || r[1] != e.String() {
			t.Errorf("row is %q, want %d %s", r, i, e)
		}
	}
}
