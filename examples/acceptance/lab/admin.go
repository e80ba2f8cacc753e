package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
)

const maxAnswer = 16 << 20 // bytes

// Get asks the kernel by its admin socket, as curl would, and decodes the
// answer into out. It starts no process, so that it can be done often.
func (k *Kernel) Get(ctx context.Context, path string, out any) error {
	b, err := k.fetch(ctx, "v1/"+path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("get %s: %w", path, err)
	}
	return nil
}

// Metrics reads the kernel's metrics: values by series, labels and all.
func (k *Kernel) Metrics(ctx context.Context) (map[string]float64, error) {
	b, err := k.fetch(ctx, "metrics")
	if err != nil {
		return nil, err
	}
	m := map[string]float64{}
	for line := range strings.Lines(string(b)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if x, err := strconv.ParseFloat(value, 64); ok && err == nil {
			m[name] = x
		}
	}
	return m, nil
}

func (k *Kernel) fetch(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://kernel/"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	resp, err := k.admin.Do(req)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.200s", resp.Status, b)
	}
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	return b, nil
}

// adminOf returns a client of the kernel that runs in dir.
func adminOf(dir string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, ".cell", "run", "admin.sock"))
		},
	}}
}
