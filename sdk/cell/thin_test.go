package cell_test

import (
	"os/exec"
	"strings"
	"testing"
)

// A cell links this package and what it needs, and none of what the kernel
// and its plugins are made of.
func TestACellIsThin(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "github.com/cellkernel/cellkernel/examples/hello/greeter").Output()
	if err != nil {
		t.Fatal(err)
	}
	heavy := []string{"google.golang.org/grpc", "hashicorp/go-plugin", "quic-go", "google.golang.org/protobuf", "net/http", "crypto/tls", "knadh/koanf"}
	for dep := range strings.FieldsSeq(string(out)) {
		for _, h := range heavy {
			if strings.Contains(dep, h) {
				t.Errorf("a cell links %s", dep)
			}
		}
	}
}
