#!/bin/bash
# systemctl --user …: runs the ExecStart line of the unit, as the unit says.
set -euo pipefail
unit=$HOME/.config/systemd/user/cellkernel.service
state=$HOME/.service
value() { sed -n "s|^$1=||p" "$unit" | sed "s|%h|$HOME|g"; }

start() {
	mkdir -p "$state"
	cd "$(value WorkingDirectory)"
	# No descriptor of the terminal is kept: the shell that asked may end.
	(
		setsid env $(value Environment) $(value ExecStart) </dev/null >>"$state/log" 2>&1 &
		echo $! >"$state/pid"
		code=0
		wait $! || code=$?
		echo "$code" >"$state/code"
	) </dev/null >/dev/null 2>&1 &
}

stop() {
	rm -f "$state/code"
	kill -TERM "$(cat "$state/pid")" # KillMode=mixed: the main process alone
	for _ in $(seq "$(value TimeoutStopSec)"0); do
		if [ -s "$state/code" ]; then
			[ "$(cat "$state/code")" = 0 ] && return
			echo "cellkernel.service: exit code $(cat "$state/code")" >&2
			exit 1
		fi
		sleep 0.1
	done
	echo "cellkernel.service does not stop" >&2
	exit 1
}

[ -f "$unit" ] || { echo "no unit $unit" >&2; exit 4; }
case "$*" in
"--user daemon-reload") ;;
"--user enable --now cellkernel") start ;;
"--user stop cellkernel") stop ;;
"--user restart cellkernel") stop; start ;;
*) echo "systemctl: this stand-in does not know: $*" >&2; exit 64 ;;
esac
