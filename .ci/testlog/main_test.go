package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const began = `{"Action":"run","Package":"github.com/cellkernel/cellkernel/sdk","Test":"TestA"}
{"Action":"pass","Package":"github.com/cellkernel/cellkernel/sdk","Test":"TestA","Elapsed":0.1}
`

const skipped = `{"Action":"output","Package":"github.com/cellkernel/cellkernel/sdk","Test":"TestB","Output":"    b_test.go:7: no nft\n"}
{"Action":"output","Package":"github.com/cellkernel/cellkernel/sdk","Test":"TestB","Output":"--- SKIP: TestB (0.00s)\n"}
{"Action":"skip","Package":"github.com/cellkernel/cellkernel/sdk","Test":"TestB","Elapsed":0}
`

func TestVerdicts(t *testing.T) {
	for name, c := range map[string]struct {
		in, allowed string
		code        int
		says        string
	}{
		"passed":            {began, "", 0, "1 tests passed, 0 skipped, 0 failures"},
		"nothing ran":       {"", "", 1, "0 tests passed"},
		"skip, not listed":  {began + skipped, "", 1, "SKIP  sdk TestB: no nft (not in"},
		"skip, listed":      {began + skipped, "# why\nsdk TestB: no \\w+\n", 0, "skip  sdk TestB: no nft"},
		"skip, half listed": {began + skipped, "sdk TestB: no", 1, "SKIP"},
		"package skipped":   {began + `{"Action":"skip","Package":"x"}`, "", 0, "0 skipped"},
		"failed": {began + `{"Action":"output","Package":"x","Test":"TestC","Output":"why\n"}` + "\n" +
			`{"Action":"fail","Package":"x","Test":"TestC"}`, "", 1, "FAIL  x TestC\nwhy"},
		"does not build": {began + `{"ImportPath":"x","Action":"build-output","Output":"x.go:1: oh\n"}` + "\n" +
			`{"ImportPath":"x","Action":"build-fail"}`, "", 1, "x.go:1: oh"},
	} {
		list := filepath.Join(t.TempDir(), "skips")
		if err := os.WriteFile(list, []byte(c.allowed), 0o600); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		code, err := run(strings.NewReader(c.in), &out, list)
		if err != nil || code != c.code || !strings.Contains(out.String(), c.says) {
			t.Errorf("%s: code %d, %v, want %d and %q in\n%s", name, code, err, c.code, c.says, out.String())
		}
	}
}
