package main

import (
	"strings"
	"testing"
)

// The example runs to its end, where both wallets agree.
func TestMarket(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs and starts kernels")
	}
	var out strings.Builder
	if err := trade(t.Context(), &out, 20); err != nil {
		t.Fatal(err, out.String())
	}
	for _, want := range []string{
		"donor  ", "discovery lighthouse: up", "encrypted, both ends proved", "of the donor did", "the wallets agree: the donor has earned ",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, out.String())
		}
	}
}
