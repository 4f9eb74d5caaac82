#!/bin/sh
# A server moves to another host while bytes flow:  sh examples/move_demo.sh
#
# Installs the Debian packages that are missing, builds into build/, makes three
# hosts (network namespaces of its own), and shows what the streams did meanwhile.
set -eu
cd "$(dirname "$0")/.."
. examples/hosts_demo.sh

python3 examples/move_demo.py --build build "$@" </dev/null
