// Package lighthouse is the server half of the discovery "lighthouse": a
// meeting point for nodes that no multicast joins. It keeps, per mesh, what
// each node announces of itself, and tells the other nodes of that mesh.
//
// It holds no secret of any mesh and understands no announcement: meshes are
// told apart by a tag that is there for all to see, and a registration belongs
// to whoever has its key. Everything is in memory and has a limit; what is
// lost by a restart the nodes bring again within a beat.
//
// An address has to return a cookie before anything is stored for it or more
// is sent to it than came from it. The protocol is package datagram and
// docs/discovery.md.
package lighthouse
