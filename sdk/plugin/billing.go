package plugin

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin/pluginpb"
)

// billingTimeout bounds each call of a billing.
const billingTimeout = 5 * time.Second

// Limits of what a billing is asked and says.
const (
	runningPerCall = 1024
	maxWorkload    = 256 // bytes of an id
	maxSource      = 32
)

// Billing returns the plugin as a billing.
func (c *Client) Billing() (sdk.Billing, error) {
	if err := c.want(KindBilling); err != nil {
		return nil, err
	}
	return &billingClient{c, pluginpb.NewBillingClient(c.cc)}, nil
}

type billingClient struct {
	*Client
	rpc pluginpb.BillingClient
}

// Place checks that the plugin's cgroup is a path that can be opened.
func (b *billingClient) Place(ctx context.Context, w sdk.Workload) (sdk.Placement, error) {
	if err := checkWorkload(w.ID); err != nil {
		return sdk.Placement{}, b.errorf(sdk.CodeInvalid, "place: %v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, billingTimeout)
	defer cancel()
	m, err := b.rpc.Place(ctx, &pluginpb.PlaceRequest{
		Id: string(w.ID), Cell: string(w.Cell), Cpus: w.Limits.CPUs, Memory: w.Limits.Memory, Pids: w.Limits.Pids,
	})
	if err != nil {
		return sdk.Placement{}, b.fromStatus(ctx, err, fmt.Sprintf("place %s", w.ID))
	}
	p, err := placementOf(m)
	if err != nil {
		return sdk.Placement{}, b.badAnswer("place", "%v", err)
	}
	return p, nil
}

// Usage asks in parts and drops nothing: an answer about a process that was
// not asked for is an error.
func (b *billingClient) Usage(ctx context.Context, live []sdk.Running) ([]sdk.Usage, error) {
	var usage []sdk.Usage
	for len(live) > 0 {
		n := min(len(live), runningPerCall)
		part, err := b.usage(ctx, live[:n])
		if err != nil {
			return nil, err
		}
		usage, live = append(usage, part...), live[n:]
	}
	return usage, nil
}

func (b *billingClient) usage(ctx context.Context, live []sdk.Running) ([]sdk.Usage, error) {
	req := &pluginpb.UsageRequest{}
	asked := make(map[sdk.WorkloadID]bool, len(live))
	for _, r := range live {
		if err := checkRunning(r); err != nil {
			return nil, b.errorf(sdk.CodeInvalid, "usage: %v", err)
		}
		asked[r.ID] = true
		req.Live = append(req.Live, runningPB(r))
	}
	ctx, cancel := context.WithTimeout(ctx, billingTimeout)
	defer cancel()
	m, err := b.rpc.Usage(ctx, req)
	if err != nil {
		return nil, b.fromStatus(ctx, err, "usage")
	}
	var usage []sdk.Usage
	for _, r := range m.GetReadings() {
		u, err := readingOf(r)
		if err == nil && !asked[u.ID] {
			err = fmt.Errorf("a reading of %q that was not asked for, or twice", u.ID)
		}
		if err != nil {
			return nil, b.badAnswer("usage", "%v", err)
		}
		delete(asked, u.ID)
		usage = append(usage, u)
	}
	return usage, nil
}

// Close returns the last reading.
func (b *billingClient) Close(ctx context.Context, r sdk.Running, exit sdk.Exit) (sdk.Usage, error) {
	if err := checkRunning(r); err != nil {
		return sdk.Usage{}, b.errorf(sdk.CodeInvalid, "close: %v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, billingTimeout)
	defer cancel()
	verb := fmt.Sprintf("close %s", r.ID)
	m, err := b.rpc.Close(ctx, &pluginpb.CloseRequest{
		Running: runningPB(r), ExitCode: int64(exit.Code), ExitCpuNs: int64(exit.CPU), ExitMaxRss: exit.MaxRSS,
	})
	if err != nil {
		return sdk.Usage{}, b.fromStatus(ctx, err, verb)
	}
	u, err := readingOf(m)
	if err == nil && u.ID != r.ID {
		err = fmt.Errorf("a reading of %q", u.ID)
	}
	if err != nil {
		return sdk.Usage{}, b.badAnswer(verb, "%v", err)
	}
	return u, nil
}

func checkWorkload(id sdk.WorkloadID) error {
	if len(id) == 0 || len(id) > maxWorkload || clip(string(id), maxWorkload) != string(id) {
		return fmt.Errorf("workload %q: want 1 to %d printable bytes", clip(string(id), maxWorkload), maxWorkload)
	}
	return nil
}

func checkRunning(r sdk.Running) error {
	if r.PID <= 0 {
		return fmt.Errorf("workload %q: process %d", r.ID, r.PID)
	}
	return checkWorkload(r.ID)
}

func placementOf(m *pluginpb.Placement) (sdk.Placement, error) {
	p := sdk.Placement{Cgroup: m.GetCgroup(), Source: m.GetSource(), Note: clip(m.GetNote(), maxText)}
	switch {
	case p.Cgroup != "" && (len(p.Cgroup) > 4096 || !filepath.IsAbs(p.Cgroup) || filepath.Clean(p.Cgroup) != p.Cgroup || strings.ContainsRune(p.Cgroup, 0)):
		return p, fmt.Errorf("cgroup %q: want a clean absolute path", clip(p.Cgroup, 200))
	case clip(p.Source, maxSource) != p.Source:
		return p, fmt.Errorf("source %q", clip(p.Source, maxSource))
	}
	return p, nil
}

func readingOf(m *pluginpb.Reading) (sdk.Usage, error) {
	u := sdk.Usage{ID: sdk.WorkloadID(m.GetId()), CPU: time.Duration(m.GetCpuNs()), RSS: m.GetRss(), Stall: time.Duration(m.GetStallNs()), Source: m.GetSource()}
	switch {
	case checkWorkload(u.ID) != nil:
		return u, checkWorkload(u.ID)
	case u.CPU < 0 || u.RSS < 0 || u.Stall < 0:
		return u, fmt.Errorf("%s: CPU %d ns, RSS %d, stall %d ns: less than nothing", u.ID, u.CPU, u.RSS, u.Stall)
	case clip(u.Source, maxSource) != u.Source:
		return u, fmt.Errorf("%s: source %q", u.ID, clip(u.Source, maxSource))
	}
	return u, nil
}

func runningPB(r sdk.Running) *pluginpb.Running {
	return &pluginpb.Running{Id: string(r.ID), Pid: int64(r.PID), StartTime: r.StartTime, Placement: placementPB(r.Placement)}
}

func placementPB(p sdk.Placement) *pluginpb.Placement {
	return &pluginpb.Placement{Cgroup: p.Cgroup, Source: p.Source, Note: p.Note}
}

func runningOf(m *pluginpb.Running) (sdk.Running, error) {
	p, err := placementOf(m.GetPlacement())
	if err != nil {
		return sdk.Running{}, sdk.Errorf(sdk.CodeInvalid, "%v", err)
	}
	r := sdk.Running{ID: sdk.WorkloadID(m.GetId()), PID: int(m.GetPid()), StartTime: m.GetStartTime(), Placement: p}
	if err := checkRunning(r); err != nil {
		return r, sdk.Errorf(sdk.CodeInvalid, "%v", err)
	}
	return r, nil
}

func readingPB(u sdk.Usage) *pluginpb.Reading {
	return &pluginpb.Reading{Id: string(u.ID), CpuNs: int64(u.CPU), Rss: u.RSS, StallNs: int64(u.Stall), Source: u.Source}
}

// billingServer serves an author's billing.
type billingServer struct {
	pluginpb.UnimplementedBillingServer
	*server
}

func (b *billingServer) Place(ctx context.Context, req *pluginpb.PlaceRequest) (*pluginpb.Placement, error) {
	bill, err := opened[sdk.Billing](b.server)
	if err != nil {
		return nil, err
	}
	w := sdk.Workload{ID: sdk.WorkloadID(req.GetId()), Cell: sdk.CellName(req.GetCell()),
		Limits: sdk.Limits{CPUs: req.GetCpus(), Memory: req.GetMemory(), Pids: req.GetPids()}}
	if err := checkWorkload(w.ID); err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "%v", err)
	}
	p, err := bill.Place(ctx, w)
	return placementPB(p), err
}

func (b *billingServer) Usage(ctx context.Context, req *pluginpb.UsageRequest) (*pluginpb.UsageReply, error) {
	bill, err := opened[sdk.Billing](b.server)
	if err != nil {
		return nil, err
	}
	if len(req.GetLive()) > runningPerCall {
		return nil, sdk.Errorf(sdk.CodeTooLarge, "%d processes: at most %d", len(req.GetLive()), runningPerCall)
	}
	live := make([]sdk.Running, len(req.GetLive()))
	for i, m := range req.GetLive() {
		if live[i], err = runningOf(m); err != nil {
			return nil, err
		}
	}
	usage, err := bill.Usage(ctx, live)
	reply := &pluginpb.UsageReply{}
	for _, u := range usage {
		reply.Readings = append(reply.Readings, readingPB(u))
	}
	return reply, err
}

func (b *billingServer) Close(ctx context.Context, req *pluginpb.CloseRequest) (*pluginpb.Reading, error) {
	bill, err := opened[sdk.Billing](b.server)
	if err != nil {
		return nil, err
	}
	r, err := runningOf(req.GetRunning())
	if err != nil {
		return nil, err
	}
	u, err := bill.Close(ctx, r, sdk.Exit{Code: int(req.GetExitCode()), CPU: time.Duration(req.GetExitCpuNs()), MaxRSS: req.GetExitMaxRss()})
	return readingPB(u), err
}
