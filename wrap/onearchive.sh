#!/bin/sh
# onearchive.sh LD OBJCOPY AR IN.a OUT.a
#
# The library's objects as one, with only its entries visible: a re-linked
# program may have a function of any name (log_line, conf_load ...), and its
# own must never be taken for ours.  One object also means that the constructor
# is there whichever entries a program uses.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$1" -r --whole-archive "$4" -o "$dir/roam.o"
"$2" --wildcard --keep-global-symbol='__wrap_*' --keep-global-symbol='roam_*' "$dir/roam.o"
rm -f "$5"
"$3" rcsD "$5" "$dir/roam.o"
