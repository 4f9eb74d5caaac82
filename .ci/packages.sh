# Sourced by .ci/run and examples/demo.sh: installs Debian packages that are missing.
# need PACKAGE...

missing()
{
	for p; do
		# "check" is a package and not only a command, so dpkg is asked.
		case $(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null) in
		installed) ;;
		*) printf '%s ' "$p" ;;
		esac
	done
}

need()
{
	if ! command -v dpkg-query >/dev/null; then
		echo "This is not a Debian system: nothing is installed. Needed: $*"
		return 0
	fi
	lack=$(missing "$@")
	if [ -z "$lack" ]; then
		echo "Packages: all there."
		return 0
	fi
	as=
	if [ "$(id -u)" != 0 ]; then
		if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
			as=sudo		# may ask for the password, at a terminal
		else
			echo "These packages are missing, and neither root nor sudo is at hand:" >&2
			echo "    apt-get install $lack" >&2
			return 1
		fi
	fi
	echo "Packages: installing $lack"
	# The lists of a fresh machine may be empty or old: fetch them when the first try fails.
	apt_install || { $as apt-get -qq update </dev/null && apt_install; } || {
		echo "apt-get could not install: $lack" >&2
		tail -n 5 "$apt_log" >&2
		rm -f "$apt_log"
		return 1
	}
	rm -f "$apt_log"
}

apt_log=${TMPDIR:-/tmp}/roam-apt.$$

# shellcheck disable=SC2086 # words are wanted
apt_install()
{
	$as env DEBIAN_FRONTEND=noninteractive apt-get -y -qq --no-install-recommends install \
		$lack </dev/null >"$apt_log" 2>&1
}
