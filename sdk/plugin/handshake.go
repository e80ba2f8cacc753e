package plugin

import (
	"context"
	"net/rpc"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

// protocolVersion is negotiated by go-plugin: a kernel offers what it speaks.
const protocolVersion = 1

// Limits of the control plane.
const maxRPC = 4 << 20 // bytes of one gRPC message

// envFD names the descriptor of the side channel. It is always "3" and there
// for people who look at a process.
const envFD = "CELLKERNEL_FD"

// handshake is no security measure: its cookie tells a plugin that it was
// started by a kernel, so that it can say what to do when it was not.
func handshake() goplugin.HandshakeConfig {
	return goplugin.HandshakeConfig{
		ProtocolVersion:  protocolVersion,
		MagicCookieKey:   "CELLKERNEL_PLUGIN",
		MagicCookieValue: "cellkernel.plugin.v1",
	}
}

// dispensed is the one name under which go-plugin knows what we serve.
const dispensed = "plugin"

// glue makes go-plugin register our services and hand us its connection.
type glue struct {
	register func(*grpc.Server)
}

func (g glue) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	g.register(s)
	return nil
}

func (g glue) GRPCClient(_ context.Context, _ *goplugin.GRPCBroker, cc *grpc.ClientConn) (any, error) {
	return cc, nil
}

// Server refuses go-plugin's old protocol.
func (g glue) Server(b *goplugin.MuxBroker) (any, error) {
	return goplugin.NetRPCUnsupportedPlugin{}.Server(b)
}

// Client refuses go-plugin's old protocol.
func (g glue) Client(b *goplugin.MuxBroker, c *rpc.Client) (any, error) {
	return goplugin.NetRPCUnsupportedPlugin{}.Client(b, c)
}
