#!/bin/bash
# loginctl enable-linger: a test does not change how its user logs in.
[ "$*" = enable-linger ] || { echo "loginctl: this stand-in does not know: $*" >&2; exit 64; }
