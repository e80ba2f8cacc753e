package identity_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
)

func TestEveryBootIsLaterThanTheLast(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mesh")
	var last [16]byte
	for range 3 {
		s, err := identity.OpenStore(dir) // as after a restart
		if err != nil {
			t.Fatal(err)
		}
		boot, err := s.Boot("farm")
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Compare(boot[:8], last[:8]) <= 0 {
			t.Errorf("boot %x after %x", boot[:8], last[:8])
		}
		last = boot
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "farm", "boots"), []byte("many"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := identity.OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Boot("farm"); sdk.CodeOf(err) != sdk.CodeDenied {
		t.Errorf("a count that is none: got %v", err)
	}
}
