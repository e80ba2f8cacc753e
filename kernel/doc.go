// Package kernel wires a kernel together and runs it. It holds no algorithm:
//
//	genome       what the user wants run, as plain structs
//	config       reads it from files, variables and flags
//	supervisor   cells, and all other child processes
//	catalog      plugins
//	golgi        names, links, who may call whom
//	network      what leads off this machine: doors, discoveries, announcements
//	probe        other nodes, looked at for people
//	gauge        how much CPU cells use, and meter for whom
//	settle       who owes whom, by the rules in books
//	vacuole      logs
//	admin        the API on a Unix socket
//
// kernel.go boots and ends, open.go makes the parts, cells.go turns the genome
// into processes, apply.go changes what runs, view.go shows it, call.go reaches
// into cells.
package kernel
