package flat

// A Type is the type of a field on the wire, without being a vector.
type Type uint8

// The types. Their names in layouts and .fbs files are those of FlatBuffers.
const (
	Bool Type = iota + 1
	Int8
	Uint8
	Int16
	Uint16
	Int32
	Uint32
	Int64
	Uint64
	Float32
	Float64
	String
	Sub // another table of the schema
)

var typeNames = [...]string{
	"none", "bool", "byte", "ubyte", "short", "ushort", "int", "uint", "long", "ulong", "float", "double", "string", "table",
}

// typeWidths are the sizes of values inside a table or vector, in bytes.
var typeWidths = [...]uint8{0, 1, 1, 1, 2, 2, 4, 4, 8, 8, 4, 8, 4, 4}

// String returns the FlatBuffers name: "ulong".
func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return "unknown"
}

// Width returns the bytes a value takes in its table or vector: 4 for what is
// stored elsewhere and referred to.
func (t Type) Width() int { return int(typeWidths[t]) }

// A Field is one slot of a table.
type Field struct {
	Name       string
	Type       Type
	Vector     bool
	Deprecated bool // the slot is kept, its content never read
	Sub        int  // of type Sub: the table's index in the schema
}

// A Record describes a table.
type Record struct {
	Name   string
	Size   int     // bytes of the Go struct it unpacks to
	Fields []Field // by slot
}

// A Schema describes the tables of a package. Generated code has one, as a
// variable that never changes; fields refer to tables by index.
type Schema []Record
