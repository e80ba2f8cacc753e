// Package new is the new version of a service that is replaced while it is used.
package new

import "context"

//go:generate go tool cellkernel gen

// Store keeps things.
//
//cell:service
type Store interface {
	// Put stores an item.
	Put(ctx context.Context, in *Item) (*Receipt, error)
	// Count says how many there are.
	Count(ctx context.Context, in *Item) (*Receipt, error)
}

// Item is what to store.
type Item struct {
	Key   string
	Value string
	Owner string
}

// Receipt proves it.
type Receipt struct {
	Key     string
	Version int64
	Owner   string
}
