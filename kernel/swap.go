package kernel

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/sdk"
)

// SwapPlugin implements [admin.Controller]: it exchanges a plugin for another
// one of its kind, or for another version of itself, while cells go on.
func (k *Kernel) SwapPlugin(ctx context.Context, from, to string, force bool) error {
	k.changing.Lock()
	defer k.changing.Unlock()
	g, err := k.genomeNow().Swap(from, to)
	if err != nil {
		return err
	}
	if problems := g.Validate(); len(problems) > 0 {
		return sdk.Errorf(sdk.CodeInvalid, "swap %q for %q: %s", from, to, problems[0])
	}
	if err := k.network.Sync(ctx, g, k.wantedCells(), force); err != nil {
		k.revertNetwork(ctx)
		return fmt.Errorf("swap %q for %q: %w", from, to, err)
	}
	k.differ(g, fmt.Sprintf("plugin %s runs in the place of %s", to, from))
	return nil
}

// differ makes g what runs, and notes that the files say something else.
func (k *Kernel) differ(g *genome.Genome, how string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.genome = g
	k.differs = append(k.differs, how)
	k.journal.Publish(admin.Event{Kind: admin.EventNote, Time: time.Now(), Text: how + ", which is not in the genome"})
	k.origins = slices.Clone(k.origins)
	for i, s := range k.origins {
		if s.Key == "golgi.discovery" {
			k.origins[i] = admin.Setting{Key: s.Key, Value: quoted(g.Golgi.Discovery), Origin: "plugin swap"}
		}
	}
}

// quoted is a list as TOML would write it.
func quoted(list []string) string {
	words := make([]string, len(list))
	for i, w := range list {
		words[i] = strconv.Quote(w)
	}
	return "[" + strings.Join(words, ", ") + "]"
}

// revertNetwork ends what a failed change has begun: what was in use before
// still is.
func (k *Kernel) revertNetwork(ctx context.Context) {
	if err := k.network.Sync(context.WithoutCancel(ctx), k.genomeNow(), k.wantedCells(), true); err != nil {
		k.note("take back a change of plugins: " + err.Error())
	}
}
