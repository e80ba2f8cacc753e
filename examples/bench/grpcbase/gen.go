// Package grpcbase is the baseline's half of load.Worker: what gRPC-go's own
// generators make of the same messages. Only the coordinator imports it.
package grpcbase

//go:generate go run ../../../sdk/plugin/pluginpb/pbgen cellkernel/bench
