// Package pluginpb holds the protobuf messages and gRPC services between a
// kernel and its plugins: the proto files beside this one, and what is
// generated from them. Only package plugin imports it; an author in another
// language generates from the same proto files (see docs/plugins.md).
package pluginpb

//go:generate go run ./pbgen cellkernel/plugin/v1
