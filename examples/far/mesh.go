package main

import (
	"context"
	"fmt"
	"os"
)

// half is how many chatterboxes each machine has.
const half = 25

// mesh has chatterboxes of both machines talk. Each keeps links to all others
// of its machine and four to the other machine, and all of them carry alike:
// every seventh message goes over the network.
func mesh(ctx context.Context, s *stage, args []string) error {
	args, err := absolute(args)
	if err != nil {
		return err
	}
	if err := s.build(ctx, "examples/mesh/chatterbox", "examples/mesh/observer", "examples/mesh/herald"); err != nil {
		return err
	}
	herald := fmt.Sprintf("\n[cells.herald]\ncommand = [%q]\nlisten  = true\naxons   = { chatterbox = { to = [\"axon://chatterbox\"], links = %d, spread = \"local\" } }\n",
		s.bin("herald"), half+1)
	far, err := s.boot(s.far, s.chatterboxes(s.near, half)+herald, nil, nil)
	if err != nil {
		return err
	}
	if err := far.await(ctx); err != nil {
		return err
	}
	args = append([]string{"--replicas", fmt.Sprint(2 * half), "--herald"}, args...)
	observer := fmt.Sprintf("\n[workspace]\nmain = \"observer\"\n\n[cells.observer]\ncommand = [%q]\nargs    = %s\njob     = true\n\n"+
		"[cells.observer.axons]\nchatterbox = { to = [\"axon://chatterbox\"], links = %d, spread = \"local\" }\nherald     = %q\n",
		s.bin("observer"), quoted(args...), half+1, s.far.axon("herald"))
	near, err := s.boot(s.near, s.chatterboxes(s.far, 0)+observer, os.Stdout, os.Stderr)
	if err != nil {
		return err
	}
	return near.end(ctx)
}

// chatterboxes describes those of one machine, which are numbered from first.
func (s *stage) chatterboxes(other machine, first int) string {
	to := []string{"axon://chatterbox"}
	if a := other.axon("chatterbox"); a != to[0] {
		to = append(to, a)
	}
	return fmt.Sprintf("[cells.chatterbox]\ncommand  = [%q]\nargs     = [\"-first\", \"%d\"]\nreplicas = %d\nlisten   = true\nenv      = { GOMAXPROCS = \"1\" }\n"+
		"axons    = { chatterbox = { to = %s, links = %d, spread = \"even\" } }\n", s.bin("chatterbox"), first, half, quoted(to...), half)
}
