package supervisor_test

import (
	"testing"

	"github.com/cellkernel/cellkernel/kernel/supervisor"
)

// BenchmarkSpawn starts a program and waits until nothing is left of it.
func BenchmarkSpawn(b *testing.B) {
	for _, bb := range []struct {
		name, groups string
		stub         supervisor.Stub
	}{
		{"cgroup", "cgroup", supervisor.Stub{}},
		{"none", "none", supervisor.Stub{}},
		{"stub", "cgroup", supervisor.Stub{NoNewPrivs: true}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			s := newSpawner(b, bb.groups)
			for b.Loop() {
				p, err := s.Spawn(b.Context(), supervisor.Spec{Name: "x", Argv: []string{"/bin/true"}, Stub: bb.stub})
				if err != nil {
					b.Fatal(err)
				}
				p.Stdout.Close()
				p.Stderr.Close()
				p.Exit()
			}
		})
	}
}
