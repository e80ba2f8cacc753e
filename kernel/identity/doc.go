// Package identity holds a node's key, the secret of its mesh, and everything
// that is signed or sealed with them. All of it stays in the kernel's process:
// cells and plugins get what was made with the keys, never the keys.
//
// # What is on disk
//
// A [Store] is the directory of one mesh on this machine, with mode 0700:
//
//	mesh.key           32 random bytes, the mesh secret
//	deny               node ids that are kept out, one a line
//	<node>/identity    Ed25519 key of a node, an OpenSSH private key file
//	<node>/boots       how often the node has announced itself anew
//
// Files have mode 0600 and are written beside their place, synced and renamed,
// so that there is never half a key. A file that others could read, that
// belongs to somebody else, has a second name or is not a regular file is
// refused and not repaired: nobody knows who has read it.
//
// # What is derived
//
// From the mesh secret come, by HKDF-SHA-256 with one label each: the mesh id,
// the key of announcements and their tag, the key of link headers and the key
// of membership. Knowing the secret is what being a member means.
//
// # What is signed
//
// There is no function that signs what a caller chose. Each kind of statement
// has its own, and a domain string in front of what is signed, so no statement
// can be read as another kind: cell certificates ([Mesh.CertifyCell]),
// announcements ([Mesh.Announce]), link headers ([Mesh.ProveLink]), proofs in a join ([Join], [Inviter]).
// Certificates for transports ([Identity.CertifyTransport]) are X.509, whose
// signed part begins with a byte that no domain string has.
//
// Integers are little endian. A string is its length, u8, and its bytes.
package identity
