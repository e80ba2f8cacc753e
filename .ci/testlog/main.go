// Testlog reads the output of "go test -json" from standard input and prints
// what people want to know: a line per package, the output of tests that
// failed, and every skip with its reason. It ends with 1 if anything failed,
// and if a test was skipped that the file named by -skips does not list.
//
// A line of that file is a regular expression that a whole skip matches,
// written as "package Test: reason". Empty lines and lines with # are comments.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

const (
	module    = "github.com/cellkernel/cellkernel"
	maxLine   = 16 << 20
	maxOutput = 256 << 10 // bytes kept of one test: the last ones say why
)

// An event is one line of "go test -json"; see cmd/test2json.
type event struct {
	Action, Package, Test, Output, ImportPath, FailedBuild string
	Elapsed                                                float64
}

type key struct{ pkg, test string }

// A report is what was seen so far.
type report struct {
	out     io.Writer
	allowed []*regexp.Regexp
	output  map[key][]byte
	passed  int
	skipped int
	failed  int
}

func main() {
	skips := flag.String("skips", "", "file that lists the skips which are allowed")
	flag.Parse()
	code, err := run(os.Stdin, os.Stdout, *skips)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testlog:", err)
		code = 1
	}
	os.Exit(code)
}

func run(in io.Reader, out io.Writer, skips string) (int, error) {
	r := &report{out: out, output: make(map[key][]byte)}
	if err := r.allow(skips); err != nil {
		return 1, err
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(out, lines.Text()) // the go command's own words
			continue
		}
		r.take(e)
	}
	if err := lines.Err(); err != nil {
		return 1, fmt.Errorf("read events: %w", err)
	}
	fmt.Fprintf(out, "%d tests passed, %d skipped, %d failures\n", r.passed, r.skipped, r.failed)
	if r.failed > 0 || r.passed == 0 {
		return 1, nil
	}
	return 0, nil
}

// allow reads the list of allowed skips.
func (r *report) allow(file string) error {
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		re, err := regexp.Compile("^(?:" + line + ")$")
		if err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
		r.allowed = append(r.allowed, re)
	}
	return nil
}

func (r *report) take(e event) {
	k := key{e.Package, e.Test}
	name := strings.TrimPrefix(strings.TrimPrefix(e.Package, module), "/")
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "build-fail":
		r.failed++
	case "output":
		b := append(r.output[k], e.Output...)
		r.output[k] = b[max(0, len(b)-maxOutput):]
	case "pass":
		if e.Test == "" {
			fmt.Fprintf(r.out, "ok    %-44s %6.1fs\n", name, e.Elapsed)
		} else {
			r.passed++
		}
		delete(r.output, k)
	case "fail":
		r.failed++
		fmt.Fprintf(r.out, "FAIL  %s %s\n%s", name, e.Test, r.output[k])
		delete(r.output, k)
	case "skip":
		r.skip(name, e.Test, string(r.output[k]))
		delete(r.output, k)
	}
}

// skip judges a skipped test. A package without tests is none.
func (r *report) skip(pkg, test, output string) {
	if test == "" {
		return
	}
	r.skipped++
	what := fmt.Sprintf("%s %s: %s", pkg, test, reason(output))
	for _, re := range r.allowed {
		if re.MatchString(what) {
			fmt.Fprintln(r.out, "skip ", what)
			return
		}
	}
	r.failed++
	fmt.Fprintln(r.out, "SKIP ", what, "(not in the list of allowed skips)")
}

// reason finds what a test said when it skipped: "    file.go:12: why".
func reason(output string) string {
	said := ""
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ") {
			continue
		}
		if _, text, ok := strings.Cut(line, ".go:"); ok {
			if _, why, ok := strings.Cut(text, ": "); ok {
				line = why
			}
		}
		said = line
	}
	return said
}
