package wallet

import "github.com/cellkernel/cellkernel/sdk"

// NewAuditOf checks so many signatures one by one.
func NewAuditOf(self sdk.NodeID, each uint64) *Audit { return newAudit(self, each) }
