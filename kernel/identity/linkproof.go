package identity

import "github.com/cellkernel/cellkernel/sdk"

const domainLink = "cellkernel/link-header/v1\x00"

// ProveLink signs what the header of a link to another node says, so that no
// other member can ask for links in this node's name. header is of one length
// or another, but the mesh id before it has 32 bytes.
func (m *Mesh) ProveLink(id *Identity, header []byte) []byte {
	return id.sign(domainLink, m.id[:], header)
}

// VerifyLink checks what [Mesh.ProveLink] has made.
func (m *Mesh) VerifyLink(node sdk.NodeID, header, proof []byte) error {
	if !verify(node.Key(), proof, domainLink, m.id[:], header) {
		return sdk.Errorf(sdk.CodeDenied, "verify link header: it is not signed by node %s", node)
	}
	return nil
}
