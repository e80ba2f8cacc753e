#!/bin/bash
# journalctl --user -u cellkernel: what the service wrote.
[ "$*" = "--user -u cellkernel" ] || { echo "journalctl: this stand-in does not know: $*" >&2; exit 64; }
exec cat "$HOME/.service/log"
