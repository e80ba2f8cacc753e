package identity

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cellkernel/cellkernel/sdk"
)

// bootsFile counts the runs of a node, as a decimal number.
const bootsFile = "boots"

// Boot counts one more run of a node and returns what [Announcement].Boot is
// in it: the count, big endian, so that receivers can tell a later run from
// one that was recorded, without a clock; then eight random bytes, which tell
// two kernels apart that were given the same keys.
func (s *Store) Boot(node sdk.CellName) (boot [16]byte, err error) {
	d, err := s.nodeDir(node)
	if err != nil {
		return boot, err
	}
	defer d.close()
	n := uint64(0)
	b, err := d.read(bootsFile, 32)
	switch {
	case err == nil:
		if n, err = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 63); err != nil {
			return boot, denied(filepath.Join(d.path, bootsFile), "it is not a number")
		}
	case !errors.Is(err, fs.ErrNotExist):
		return boot, err
	}
	n++
	if err := d.replace(bootsFile, fmt.Appendf(nil, "%d\n", n)); err != nil {
		return boot, err
	}
	binary.BigEndian.PutUint64(boot[:], n)
	rand.Read(boot[8:]) // never fails
	return boot, nil
}
