package kernel

import (
	"context"
	"time"

	"github.com/cellkernel/cellkernel/kernel/gauge"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/kernel/meter"
	"github.com/cellkernel/cellkernel/kernel/metrics"
	"github.com/cellkernel/cellkernel/kernel/supervisor"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

// openGauge makes what reads the meters of cells.
func (k *Kernel) openGauge() {
	dir, _ := k.spawner.Cgroup()
	o := gauge.Options{Below: dir, Reading: func() func() { return k.golgi.Reading() }, Note: k.note, Log: k.log}
	if k.genome.Golgi.Billing != "" {
		o.Billing = billing{k}
	}
	k.gauge = gauge.New(o)
}

// billing is whatever plugin meters now: it may be exchanged.
type billing struct{ k *Kernel }

func (b billing) plugin() (sdk.Billing, error) {
	return b.k.catalog.Billing(genome.PluginName(sdk.KindBilling, b.k.genomeNow().Golgi.Billing))
}

func (b billing) Place(ctx context.Context, w sdk.Workload) (sdk.Placement, error) {
	p, err := b.plugin()
	if err != nil {
		return sdk.Placement{}, err
	}
	return p.Place(ctx, w)
}

func (b billing) Usage(ctx context.Context, live []sdk.Running) ([]sdk.Usage, error) {
	p, err := b.plugin()
	if err != nil {
		return nil, err
	}
	return p.Usage(ctx, live)
}

func (b billing) Close(ctx context.Context, r sdk.Running, exit sdk.Exit) (sdk.Usage, error) {
	p, err := b.plugin()
	if err != nil {
		return sdk.Usage{}, err
	}
	return p.Close(ctx, r, exit)
}

// workload is what a billing calls one life of one replica.
func workload(r supervisor.Replica) sdk.WorkloadID { return sdk.WorkloadID("cell/" + r.String()) }

// place adds to a launch where the process is born.
func (k *Kernel) place(ctx context.Context, r supervisor.Replica, c supervisor.CellSpec, l *supervisor.Launch) {
	id, before := workload(r), l.Close
	p := k.gauge.Place(ctx, sdk.Workload{ID: id, Cell: r.Cell, Limits: c.Limits})
	if l.Limited = p.Source != ""; p.Source == "cpuacct" {
		l.Join = append(l.Join, p.Cgroup)
	} else {
		l.Cgroup = p.Cgroup
	}
	l.Close = func() { before(); k.gauge.Over(id) }
}

// metered tells the gauge that a process runs.
func (k *Kernel) metered(r supervisor.Replica, p *supervisor.Process) {
	own := func() sdk.Usage {
		u := p.Usage()
		return sdk.Usage{ID: workload(r), CPU: u.CPU, RSS: u.RSS, Source: u.Source}
	}
	k.gauge.Started(sdk.Running{ID: workload(r), PID: p.PID(), StartTime: p.StartTime()}, p.Cgroup(), own)
}

// counted passes on what a process says of its callers.
func (k *Kernel) counted(r golgi.Replica, s channel.Stats, links []golgi.Count) {
	c := meter.Counters{CPU: time.Duration(s.CPUNS), Split: s.Split}
	for _, l := range links {
		for _, m := range l.Methods {
			c.Lines = append(c.Lines, meter.Line{
				Link: l.Link, Node: l.Node, From: l.From, Method: m.Method, Calls: m.Calls, Weight: time.Duration(m.WeightNS), Closed: l.Over,
			})
		}
	}
	k.gauge.Counted(workload(supervisor.Replica(r)), c)
}

// MetricCharges implements [metrics.Source].
func (k *Kernel) MetricCharges() []metrics.Charge {
	var list []metrics.Charge
	for _, t := range k.gauge.Totals() {
		list = append(list, metrics.Charge{Node: t.Node.Short(), From: string(t.From), To: string(t.Cell), CPU: float64(t.CPU) / 1e6})
	}
	return list
}
