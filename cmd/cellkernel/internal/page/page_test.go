package page_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/internal/page"
)

func TestMissingFindsWhatIsNotThere(t *testing.T) {
	out := "greeter#1  cell  ready\nbye\n"
	for want, ok := range map[string]bool{
		"greeter#1 … ready": true, "bye": true, "by": false, "greeter#2 …": false, "bye\nbye": false,
	} {
		if got := page.Missing(out, strings.Split(want, "\n")) == ""; got != ok {
			t.Errorf("%q found: %v, want %v", want, got, ok)
		}
	}
}

func TestBlocksOfAPage(t *testing.T) {
	list := page.Blocks("a\n```sh first stays\nx\ny\n```\n```text\nout\n```\n\n```text\nmore\n```\n```\nnone\n```\n")
	if len(list) != 3 {
		t.Fatalf("got %+v, want three blocks", list)
	}
	b := list[0]
	if b.Line != 2 || b.Lang != "sh" || !b.Has("first") || !b.Has("stays") || b.Has("second") || b.Text != "x\ny" || !slices.Equal(b.Want, []string{"out"}) {
		t.Errorf("got %+v", b)
	}
	if list[1].Lang != "text" || list[1].Text != "more" || list[2].Lang != "" || list[2].Text != "none" {
		t.Errorf("got %+v", list[1:])
	}
}
