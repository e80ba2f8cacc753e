package gen_test

import (
	"testing"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/internal/gen"
)

func TestSmoke(t *testing.T) {
	r, err := gen.Run(t.Context(), []string{"./gentest"}, gen.Options{})
	t.Logf("%+v", r)
	if err != nil {
		t.Fatal(err)
	}
}
