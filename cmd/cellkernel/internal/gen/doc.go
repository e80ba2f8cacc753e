// Package gen is the code generator behind "cellkernel gen". It reads Go
// interfaces marked //cell:service and writes, beside the source:
//
//   - messages_cell.go: encoders, views and the layout of every message
//   - <service>_cell.go: registration, the view form, the typed client
//   - <service>.fbs: the pinned layout, which is input as well
//
// The steps are files: load.go finds the declarations, message.go turns Go
// types into fields, pin.go gives every field its slot, image.go lays tables
// out, emit.go and the templates write. hash.go tells cheaply whether all of
// it would come out the same.
package gen
