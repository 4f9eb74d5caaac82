# Sourced by the demos between hosts, from the top: packages and programs.
. .ci/packages.sh

need meson ninja-build gcc libc6-dev pkg-config python3 check libsodium-dev libinih-dev zlib1g-dev \
	iproute2 nftables util-linux

log=${TMPDIR:-/tmp}/roam-demo-build.$$
trap 'rm -f "$log"' EXIT
echo "Building ..."
{
	if [ ! -f build/build.ninja ]; then
		meson setup build
	fi
	ninja -C build agent/roamd agent/roamctl tests/net/walker tests/net/walker-roam
} >"$log" 2>&1 </dev/null || {
	tail -n 30 "$log" >&2
	echo "The build failed." >&2
	exit 1
}
