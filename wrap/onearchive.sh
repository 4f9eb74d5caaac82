#!/bin/sh
# onearchive.sh LD OBJCOPY AR ZLIB.a IN.a DLSYM.a COVER.a OUT.a COVER.o
#
# The library's objects as one, with only its entries visible: a re-linked
# program may have a function of any name (log_line, conf_load ...), and its
# own must never be taken for ours, nor for zlib's (redis has a zcalloc, too).  One object also means that the constructor
# is there whichever entries a program uses.  The second member is for programs
# that use dlsym, COVER.o for the whole process (cover.S).
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$1" -r --whole-archive "$5" --no-whole-archive "$4" -o "$dir/roam.o"
# DW.ref.*: one for the whole link, whoever brings it (a COMDAT of the compiler's).
"$2" --wildcard --keep-global-symbol='__wrap_*' --keep-global-symbol='roam_*' \
	--keep-global-symbol='DW.ref.*' "$dir/roam.o"
"$1" -r --whole-archive "$6" -o "$dir/roam-dlsym.o"
"$1" -r --whole-archive "$7" -o "$9"
rm -f "$8"
"$3" rcsD "$8" "$dir/roam.o" "$dir/roam-dlsym.o"
