package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
)

// shownForeign is how many foreign rows are shown without --all: anybody can
// make some up.
const shownForeign = 8

// shownCells is how many cells of a node are named in its row.
const shownCells = 4

func (a *app) peersCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "peers",
		Short: "List the nodes of the mesh, how they were found and how far away they are",
		Long: `Peers begins with a line for each discovery: whether it is up, whether it has told all it knew,
and how old its last event is. Then follow this node, the members of the mesh, addresses that axons
name, and what announces itself and is of another mesh. RTT is a round trip to the kernel of a node;
it is empty where none came back within a second. Foreign nodes are never asked. ADDRESS is where a
node is dialled first, FOUND BY who sees it; a foreign one is shown where it was seen.`,
		Args:              args(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := brief(cmd)
			defer cancel()
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			p, err := c.Peers(ctx)
			if err != nil {
				return err
			}
			return a.show(p, func(w io.Writer) error { return peersText(w, p, all) })
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "whole ids, all cells and addresses, nodes that are gone, all foreign ones")
	a.outputFlag(cmd)
	return cmd
}

func peersText(w io.Writer, p *admin.Peers, all bool) error {
	for _, s := range p.Sources {
		fmt.Fprintf(w, "discovery %s: %s\n", printable(s.Name), sourceText(s))
	}
	if len(p.Sources) == 0 {
		fmt.Fprintln(w, "no discovery is in use")
	}
	rows := [][]string{peerRow(&p.Self, all)}
	foreign, gone := 0, 0
	for i := range p.Peers {
		peer := &p.Peers[i]
		switch {
		case all:
		case peer.State == admin.PeerGone:
			gone++
			continue
		case peer.State == admin.PeerForeign:
			if foreign++; foreign > shownForeign {
				continue
			}
		}
		rows = append(rows, peerRow(peer, all))
	}
	fmt.Fprintln(w)
	if err := table(w, []string{"NODE", "NAME", "STATE", "RTT", "LINKS", "DONOR", "CELLS", "ADDRESS", "FOUND BY"}, rows); err != nil {
		return err
	}
	if more := foreign - shownForeign; more > 0 {
		fmt.Fprintf(w, "and %d more of other meshes; --all shows them\n", more)
	}
	if gone > 0 {
		fmt.Fprintf(w, "and %d that are gone; --all shows them\n", gone)
	}
	return nil
}

// sourceText says how a discovery does.
func sourceText(s admin.PeerSource) string {
	state := "up"
	switch {
	case !s.Up:
		state = "down"
	case !s.Synced:
		state = "up, not synced yet"
	}
	last := "no event yet"
	if s.LastMS >= 0 {
		last = "last event " + timeText(s.LastMS, time.Millisecond) + " ago"
	}
	return fmt.Sprintf("%s for %s, %s, sees %d", state, timeText(s.SinceMS, time.Millisecond), last, s.Nodes)
}

// peerRow is a line of the table. Of several addresses the one that is dialled
// first is shown; a foreign node is shown where it was seen.
func peerRow(p *admin.Peer, all bool) []string {
	id := string(p.Node)
	switch {
	case id == "" && p.MeshTag != "":
		id = "mesh " + p.MeshTag
	case !all:
		id = p.Node.Short()
	}
	donor := ""
	if p.Donor {
		donor = "yes"
	}
	seen, by := originText(p.Origins)
	addrs := p.Addrs
	if p.MeshTag != "" {
		addrs = seen
	}
	if !all {
		addrs = addrs[:min(len(addrs), 1)]
	}
	links := ""
	if p.Links > 0 {
		links = fmt.Sprint(p.Links)
	}
	return []string{cmp.Or(id, "-"), cmp.Or(p.Name, "-"), string(p.State), cmp.Or(rttText(p.RTTUS), "-"), cmp.Or(links, "-"), cmp.Or(donor, "-"),
		cmp.Or(cellsText(p.Cells, all), "-"), cmp.Or(strings.Join(addrs, " "), "-"), cmp.Or(by, "-")}
}

func cellsText(cells []admin.PeerCell, all bool) string {
	var list []string
	for i, c := range cells {
		if !all && i == shownCells {
			list = append(list, fmt.Sprintf("and %d more", len(cells)-i))
			break
		}
		text := string(c.Name)
		if c.Replicas != 1 {
			text += fmt.Sprintf("(%d)", c.Replicas)
		}
		list = append(list, text)
	}
	return strings.Join(list, " ")
}

// originText returns where a peer was seen, and by whom.
func originText(origins []admin.PeerOrigin) (addrs []string, by string) {
	var sources []string
	for _, o := range origins {
		if o.Addr != "" && !slices.Contains(addrs, o.Addr) {
			addrs = append(addrs, o.Addr)
		}
		if !slices.Contains(sources, o.Source) {
			sources = append(sources, o.Source)
		}
	}
	return addrs, strings.Join(sources, " ")
}

// rttText is a round trip for people; 0 is none.
func rttText(us int64) string {
	d := time.Duration(us) * time.Microsecond
	switch {
	case us <= 0:
		return ""
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}
