package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/catalog"
	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/kernel/metrics"
	"github.com/cellkernel/cellkernel/kernel/network"
	"github.com/cellkernel/cellkernel/kernel/peers"
	"github.com/cellkernel/cellkernel/kernel/probe"
	"github.com/cellkernel/cellkernel/kernel/supervisor"
	"github.com/cellkernel/cellkernel/kernel/vacuole"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// openLogs makes the vacuole and the kernel's own log in it.
func (k *Kernel) openLogs(end *closers) error {
	g := k.genome.Kernel
	v, err := vacuole.Open(k.dirs.logs, vacuole.Options{
		MaxSize: int64(g.LogSize), Backups: g.LogBackups, Rate: int64(g.LogRate),
		Trouble: func(t vacuole.Trouble) { k.note(trouble(t)) },
		Slowed: func(s vacuole.Source) {
			k.note(fmt.Sprintf("%s writes more than %s/s to its log and is slowed down", s, g.LogRate))
		},
	})
	if err != nil {
		return err
	}
	w, err := v.Writer(vacuole.Source{Kind: vacuole.Kernel, Name: "kernel"})
	if err != nil {
		return err
	}
	k.vacuole = v
	k.log = slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	end.add(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
		defer cancel()
		return v.Close(ctx)
	})
	return nil
}

// withoutTime drops the time of a record: the vacuole puts its own in front.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

func trouble(t vacuole.Trouble) string {
	if t.Err != nil {
		return fmt.Sprintf("log %s is not stored: %v", t.File, t.Err)
	}
	return fmt.Sprintf("log %s is stored again; %d lines (%d bytes) were lost", t.File, t.Lines, t.Bytes)
}

// openSpawner starts the sweeper before anything it might have to sweep.
func (k *Kernel) openSpawner(ctx context.Context, end *closers) error {
	s, err := supervisor.NewSpawner(supervisor.SpawnerOptions{Self: k.opt.Self, Log: k.log})
	if err != nil {
		return err
	}
	k.spawner = s
	sweeper, err := supervisor.StartSweeper(ctx, s, s.State(k.dirs.state, k.dirs.run))
	if err != nil {
		return errors.Join(err, s.Close())
	}
	end.add(func() error {
		err := s.Close()
		ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
		defer cancel()
		return errors.Join(err, sweeper.Close(ctx))
	})
	return nil
}

func (k *Kernel) openCatalog(end *closers) {
	budget := k.genome.Golgi.PluginRestarts
	k.catalog = catalog.New(catalog.Options{
		Bundled: k.bundled, Launch: k.launch, RunDir: k.dirs.run, StateDir: k.dirs.plugins, BookDir: k.dirs.books,
		Secret: k.pluginSecret, Certify: k.certifyTransport,
		Log: k.pluginLog(), Changed: k.pluginChanged, Budget: budget.Max, Window: budget.Within,
	})
	end.add(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), pluginGrace)
		defer cancel()
		k.catalog.Close(ctx)
		return nil
	})
}

// openGolgi makes the pipeline and attaches the kernel to it.
func (k *Kernel) openGolgi(end *closers) error {
	home, err := k.dirs.homeMesh()
	if err != nil {
		return err
	}
	k.peers = peers.New(peers.Options{Self: k.Self().Node(), Wire: wire.Major, Transports: k.genome.RemoteTransports()})
	k.peers.Deny(k.DeniedNodes())
	k.golgi = golgi.New(golgi.Options{
		Run: k.spawner.RunID(), Self: k.Self(), Home: home, Mesh: k.Mesh(), Peers: k.peers,
		Denied: k.IsDenied, Scheme: k.staticScheme(), Local: sdk.Addr{Scheme: "uds", Host: k.dirs.links},
		Dial: k.dial, Junction: junction, Join: k.ServeJoin, Log: k.log, Changed: func() { k.network.Changed() }, Counted: k.counted,
		Ready: func(r golgi.Replica) { k.cells.Ready(supervisor.Replica(r)) },
		Hung:  func(r golgi.Replica, why string) { k.cells.Hung(supervisor.Replica(r), why) },
		Bill:  func(ctx context.Context, n sdk.NodeID, host string) error { return k.settle.Link(ctx, n, host) },
	})
	k.openSettle()
	end.add(func() error { k.golgi.Close(); return nil })
	k.network = network.New(network.Options{
		Catalog: k.catalog, Golgi: k.golgi, Peers: k.peers, Member: k.Live, Running: k.running, Log: k.log, Note: k.note,
	})
	k.probe = probe.New(probe.Options{
		Node: k.Self().Node(), Mesh: k.mesh(), Running: k.running, Golgi: k.golgi, Peers: k.peers, Doors: k.network.Doors,
		Denied: k.Live.IsDenied, Attach: k.attachSelf,
	})
	if err := k.openControl(end); err != nil {
		return err
	}
	return k.openSelf(end)
}

// staticScheme is the transport of addresses that axons name: the preferred
// one of those that leave this machine.
func (k *Kernel) staticScheme() string {
	if list := k.genome.RemoteTransports(); len(list) > 0 {
		return list[0]
	}
	return ""
}

// openControl lets processes attach that did not inherit their channel.
func (k *Kernel) openControl(end *closers) error {
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: k.dirs.control, Net: "unixpacket"})
	if err != nil {
		return fmt.Errorf("open control socket: %w", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := k.golgi.ServeControl(l); err != nil {
			k.log.Error("control socket ended", "error", err)
		}
	})
	end.add(func() error { l.Close(); wg.Wait(); return nil })
	return nil
}

// openAdmin serves the admin API.
func (k *Kernel) openAdmin(end *closers) error {
	ln, err := admin.Listen(filepath.Join(k.dirs.run, admin.SocketName))
	if err != nil {
		return err
	}
	srv := admin.NewServer(k, admin.Options{Metrics: metrics.Handler(k), Log: k.log})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := srv.Serve(ln); err != nil {
			k.log.Error("admin socket ended", "error", err)
		}
	})
	end.add(func() error {
		k.journal.Close()
		ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
		defer cancel()
		err := srv.Shutdown(ctx)
		wg.Wait()
		return err
	})
	return nil
}

// openMetrics serves metrics over TCP, if the genome asks for it. The admin
// socket has them in any case.
func (k *Kernel) openMetrics(end *closers) error {
	addr := k.genome.Kernel.Metrics
	if addr == "" {
		return nil
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("serve metrics at kernel.metrics = %q: %w", addr, err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics.Handler(k))
	srv := &http.Server{Handler: mux, ReadTimeout: metricsTimeout, WriteTimeout: metricsTimeout, MaxHeaderBytes: 16 << 10}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := srv.Serve(ln); err != http.ErrServerClosed {
			k.log.Error("metrics ended", "error", err)
		}
	})
	end.add(func() error { err := srv.Close(); wg.Wait(); return err })
	return nil
}
