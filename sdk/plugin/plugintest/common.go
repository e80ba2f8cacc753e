package plugintest

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

const unknownKey = "no-such-key"

func commonClauses() []clause {
	return []clause{
		{"config-strict", "refuses an unknown key and names it", checkStrict, false},
		{"stop", "ends by itself when it was drained", checkStop, false},
		{"orphan", "ends within 3 s when the kernel is gone", checkOrphan, true},
		{"killed", "opens again with the same state after kill -9", checkKilled, true},
		{"ping", "answers pings, each within 2 s", checkPings, false},
	}
}

func checkStrict(e *env) error {
	config := maps.Clone(e.o.Config)
	if config == nil {
		config = map[string]any{}
	}
	config[unknownKey] = true
	_, err := e.openWith(config, "")
	switch {
	case err == nil:
		return fmt.Errorf("opened with the key %q", unknownKey)
	case sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), unknownKey):
		return fmt.Errorf("the error is %v, %q: want code invalid and the name of the key", sdk.CodeOf(err), err)
	}
	return nil
}

func checkStop(e *env) error {
	c, err := e.open()
	if err != nil {
		return err
	}
	e.drop(c)
	return c.Stop(e.ctx)
}

func checkOrphan(e *env) error {
	c, err := e.open()
	if err != nil {
		return err
	}
	e.drop(c)
	defer c.Kill()
	begin := time.Now()
	c.Abandon()
	select {
	case <-c.Done():
		return nil
	case <-time.After(3 * time.Second): // generous: machines may be busy
	case <-e.ctx.Done():
	}
	return fmt.Errorf("still there %v after the end of descriptor 3", time.Since(begin).Round(time.Millisecond))
}

func checkKilled(e *env) error {
	state := e.dir
	c, err := e.openWith(e.o.Config, state)
	if err != nil {
		return err
	}
	e.drop(c)
	c.Kill()
	if c, err = e.openWith(e.o.Config, state); err != nil {
		return err
	}
	return c.Ping(e.ctx)
}

func checkPings(e *env) error {
	c, err := e.open()
	if err != nil {
		return err
	}
	for range 20 {
		ctx, cancel := context.WithTimeout(e.ctx, 2*time.Second)
		err := c.Ping(ctx)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}
