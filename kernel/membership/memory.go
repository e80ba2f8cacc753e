package membership

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// HideMemory keeps what is in the memory of this process, from which keys are
// never quite gone, out of core files and away from the debuggers of other
// processes of this user. What it starts is not affected: an exec undoes it.
// So there is no need to limit the size of core files, which cells would
// inherit (proc(5), /proc/PID; prctl(2), PR_SET_DUMPABLE).
func HideMemory() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("keep memory out of core files: %w", err)
	}
	return nil
}
