#!/bin/sh
# The main job, shown:  sh examples/demo.sh
#
# Installs the Debian packages that are missing, builds into build/, starts the
# re-linked examples, breaks their connections, and shows what became of them.
set -eu
cd "$(dirname "$0")/.."
. .ci/packages.sh

need meson ninja-build gcc libc6-dev pkg-config python3 check libsodium-dev libinih-dev zlib1g-dev \
	iproute2 util-linux

log=${TMPDIR:-/tmp}/roam-demo-build.$$
trap 'rm -f "$log"' EXIT
echo "Building ..."
{
	if [ ! -f build/build.ninja ]; then
		meson setup build
	fi
	ninja -C build tests/support/breaker \
		examples/echo_server examples/echo_client examples/echo_server-roam \
		examples/echo_client-roam examples/bulk_send-roam examples/bulk_recv-roam
} >"$log" 2>&1 </dev/null || {
	tail -n 30 "$log" >&2
	echo "The build failed." >&2
	exit 1
}

python3 examples/demo.py --build build "$@" </dev/null
