package probe

import (
	"context"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

// Methods asks a cell what it serves.
func Methods(ctx context.Context, m *cell.Membrane, name sdk.CellName) ([]admin.Method, error) {
	services, err := m.Synapse(name).Services(ctx)
	if err != nil {
		return nil, err
	}
	list := []admin.Method{}
	for _, s := range services {
		for _, m := range s.Methods {
			list = append(list, admin.Method{Service: s.Name, Name: m.Name, Streams: streams(cell.Shape(m.Shape))})
		}
	}
	return list, nil
}

func streams(s cell.Shape) string {
	switch s {
	case cell.ServerStream:
		return "server"
	case cell.ClientStream:
		return "client"
	case cell.Bidi:
		return "both"
	}
	return ""
}
