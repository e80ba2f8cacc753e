package cgroupbilling

import "github.com/prometheus/procfs"

// Try says why a source does not work here.
func Try(source string) error {
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return err
	}
	switch source {
	case sourceCgroup2:
		_, err = newUnified(proc)
	case sourceCpuacct:
		_, err = newCpuacct(proc)
	}
	return err
}
