package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/sdk"
)

const (
	probeTimeout  = 5 * time.Second // of lighthouse --probe
	scrapeTimeout = 5 * time.Second // of one request for metrics
)

type lighthouseFlags struct {
	listen, metrics, probe string
}

func (a *app) lighthouseCommand() *cobra.Command {
	var f lighthouseFlags
	cmd := &cobra.Command{
		Use:   "lighthouse",
		Short: "Serve as a meeting point of nodes that no multicast joins",
		Long: `Lighthouse tells the nodes of a mesh about each other that name it in their section
[plugins.discovery-lighthouse]. It can serve any number of meshes, reads nothing of what they announce,
keeps nothing on disk and needs no configuration. It logs JSON to standard error and ends with the
first signal.`,
		Example:           "  cellkernel lighthouse --listen :9443 --metrics 127.0.0.1:9444\n  cellkernel lighthouse --probe 203.0.113.7:9443",
		Args:              args(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.probe != "" {
				ctx, cancel := context.WithTimeout(cmd.Context(), probeTimeout)
				defer cancel()
				return probeLighthouse(ctx, f.probe)
			}
			return a.serveLighthouse(cmd.Context(), f)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.listen, "listen", ":9443", "UDP address to serve nodes at")
	fl.StringVar(&f.metrics, "metrics", "", "TCP address to serve /metrics for Prometheus at (default: nowhere)")
	fl.StringVar(&f.probe, "probe", "", "do not serve: only see whether the lighthouse at this address answers")
	return cmd
}

// serveLighthouse serves until ctx is done.
func (a *app) serveLighthouse(ctx context.Context, f lighthouseFlags) error {
	log := slog.New(slog.NewJSONHandler(a.stderr, nil))
	s, err := listenLighthouse(ctx, f.listen, log)
	if err != nil {
		return fmt.Errorf("lighthouse: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan error, 1)
	go func() {
		err := s.Serve(ctx)
		cancel(err)
		done <- err
	}()
	if f.metrics != "" {
		err = serveMetrics(ctx, f.metrics, s.Metrics(), log)
		cancel(err)
	}
	err = errors.Join(err, <-done)
	st := s.Stats()
	log.Info("lighthouse ends", "nodes", st.Nodes, "watchers", st.Watchers, "received", st.Received, "sent", st.Sent)
	return err
}

// serveMetrics serves metrics at addr until ctx is done.
func serveMetrics(ctx context.Context, addr string, metrics http.Handler, log *slog.Logger) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return sdk.Errorf(sdk.CodeInvalid, "lighthouse: listen at %q for metrics: %v", addr, err)
	}
	log.Info("metrics are served", "address", l.Addr().String())
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	s := &http.Server{Handler: mux, ReadTimeout: scrapeTimeout, WriteTimeout: scrapeTimeout, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
