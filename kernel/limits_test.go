package kernel_test

import (
	"testing"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/kernel/supervisor"
)

// These packages may not know each other, and mean the same number.
func TestReplicasHaveOneLimit(t *testing.T) {
	for name, limit := range map[string]int{"supervisor": supervisor.MaxReplicas, "admin": admin.MaxReplicas} {
		if limit != genome.MaxReplicas {
			t.Errorf("replicas of one cell: %s allows %d, genome %d: want one number", name, limit, genome.MaxReplicas)
		}
	}
	if admin.MaxIndex <= supervisor.MaxReplicas {
		t.Errorf("index of a replica: at most %d, want room for those started by hand", admin.MaxIndex)
	}
}
