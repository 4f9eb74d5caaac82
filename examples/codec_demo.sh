#!/bin/sh
# A link becomes slow, and fast again:  sh examples/codec_demo.sh
#
# Installs the Debian packages that are missing, builds into build/, makes two
# hosts (network namespaces of its own), and plots what gets through with and without roam.
set -eu
cd "$(dirname "$0")/.."
. examples/hosts_demo.sh

python3 examples/codec_demo.py --build build "$@" </dev/null
