package plugintest_test

import "github.com/cellkernel/cellkernel/sdk/plugin"

func broken() map[string]plugin.Plugin { return nil }
func strange() map[string]func()       { return nil }
