package gentest

import "github.com/cellkernel/cellkernel/sdk/flat"

// Schema is the generated one, for tests that walk buffers by themselves.
func Schema() flat.Schema { return cellMessages }
