// Package plugin is what a plugin links, and the kernel's end of the same
// wire. A plugin is one value, and its main function one statement:
//
//	func main() { plugin.Main(plugin.Discovery("nobody", struct{}{}, New)) }
//
// [Transport], [Discovery], [Ledger] and [Billing] make the value from a name,
// a struct of default settings and a function that opens the implementation.
// The section of the genome is decoded strictly over the defaults: an unknown
// key is an error with the nearest spelling.
//
// # What an author gets
//
// A [Host] with a logger, a directory, derived keys and, for transports,
// certificates. Errors that are an sdk.Error keep their code across the
// process; a panic becomes an error. If the implementation has a Close method
// it is called before the process ends. Printing is harmless: it ends up in
// the log.
//
// # What a kernel gets
//
// [Start] runs a plugin as a process, [Pipe] in this one, for tests. Both end
// in a [Client], which is the trust border: it checks lengths, names,
// addresses, descriptors, order and sums of what a plugin answers, gives every
// call a deadline, and names the plugin in each error exactly once:
// "transport(uds): dial uds:///run/a.sock: connection refused".
//
// # The wire
//
// Control travels as gRPC through go-plugin, over a Unix socket in a private
// directory whose two ends check each other's process (SO_PEERCRED).
// Descriptors and host calls travel over descriptor 3, a SEQPACKET socket
// whose end of input tells either side that the other is gone. A transport's
// connection is handed over as a descriptor; what has none is pumped through a
// socket pair. docs/plugins.md has the messages, for other languages.
package plugin
