#!/bin/bash
# ssh HOST COMMAND: the host is a machine of the farm.
set -euo pipefail
here=$(dirname "$0")
host=${1%%.*}
shift
. "$here/$host.env"
exec bash -euo pipefail -c "$*"
