# Common to .ci/run and .ci/soak; not a program.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export CI=true NO_COLOR=1
begun=$SECONDS

# step NAME PROMISE COMMAND... runs a command and says what it is good for. The
# first failure ends the script. With names in only, others are left out.
only=()
step() {
	local name=$1 promise=$2 start=$SECONDS
	shift 2
	((${#only[@]} == 0)) || [[ " ${only[*]} " == *" $name "* ]] || return 0
	printf '\n== %s\n   checks: %s\n' "$name" "$promise"
	if ! "$@"; then
		printf '== %s: FAILED after %d s\n' "$name" $((SECONDS - start))
		exit 1
	fi
	printf '== %s: ok, %d s\n' "$name" $((SECONDS - start))
}

# tools installs what tests use and a plain machine lacks: program:package.
tools() {
	local want missing=()
	for want in ssh-keygen:openssh-client strace:strace nft:nftables flatc:flatbuffers-compiler ip:iproute2 gcc:gcc systemd-analyze:systemd; do
		command -v "${want%%:*}" >"$tmp/which" || missing+=("${want##*:}")
	done
	if ((${#missing[@]} == 0)); then
		echo "all there"
		return
	fi
	echo "missing: ${missing[*]}"
	if [[ $(id -u) != 0 ]]; then
		echo "not root: install them by hand, or tests are skipped, which fails here"
		return
	fi
	if ! { DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}"; } >"$tmp/apt" 2>&1; then
		tail -5 "$tmp/apt"
		echo "could not install: tests that need them are skipped, which fails here"
	fi
}

# tests ARGUMENTS... runs go test; a skip that .ci/skips does not list fails.
tests() {
	[[ -x $tmp/testlog ]] || go build -o "$tmp/testlog" ./.ci/testlog
	go test -json -count=1 -timeout 10m "$@" | "$tmp/testlog" -skips .ci/skips
}
