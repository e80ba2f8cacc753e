package netlab

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// lossUnit is the smallest share of lost frames: one in a million.
const lossUnit = 1_000_000

// filter tells the switch what to drop: all that is between groups of a
// partition, and what cables lose. The rules are replaced at once, nft(8).
func (l *Lab) filter() error {
	nft, err := exec.LookPath("nft")
	if err != nil {
		return fmt.Errorf("%w: %w (Debian: nftables)", ErrUnavailable, err)
	}
	var out bytes.Buffer
	cmd := exec.Command(nft, "-f", "-")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(l.rules()), &out, &out
	if err := l.hub.start(cmd); err != nil {
		return fmt.Errorf("start nft: %w", err)
	}
	if err := cmd.Wait(); err != nil {
		return errors.Join(fmt.Errorf("filter frames: %w", err), errors.New(out.String()))
	}
	return nil
}

// rules is the whole of the filter. Loss is where a frame enters or leaves the
// cable, so that a multicast is lost once when sent, and by each receiver on
// its own when received. The first line makes the second one work on a fresh
// switch.
func (l *Lab) rules() string {
	var b strings.Builder
	b.WriteString("table bridge lab\ndelete table bridge lab\ntable bridge lab {\n chain enter { type filter hook prerouting priority 0;\n")
	for _, h := range l.hosts {
		lose(&b, "iifname", h.port(), h.up.Loss)
	}
	b.WriteString(" }\n chain leave { type filter hook postrouting priority 0;\n")
	for _, h := range l.hosts {
		lose(&b, "oifname", h.port(), h.down.Loss)
	}
	b.WriteString(" }\n chain cross { type filter hook forward priority 0;\n")
	for i, from := range l.split {
		for j, to := range l.split {
			if i != j && len(from) > 0 && len(to) > 0 {
				fmt.Fprintf(&b, "  iifname %s oifname %s drop\n", ports(from), ports(to))
			}
		}
	}
	b.WriteString(" }\n}\n")
	return b.String()
}

// lose writes the rule that drops a share of a port's frames.
func lose(b *strings.Builder, side, port string, share float64) {
	switch {
	case share == 1: // numgen has no such number
		fmt.Fprintf(b, "  %s %s drop\n", side, port)
	case share > 0:
		fmt.Fprintf(b, "  %s %s numgen random mod %d < %d drop\n", side, port, lossUnit, int(share*lossUnit))
	}
}

// ports is the set of the ports by which the switch reaches the hosts, with a
// box in the cable or without.
func ports(hosts []*Host) string {
	var names []string
	for _, h := range hosts {
		names = append(names, h.port(), h.far())
	}
	return "{ " + strings.Join(names, ", ") + " }"
}
