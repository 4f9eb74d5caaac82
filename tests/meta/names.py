#!/usr/bin/env python3
"""names.py LIBROAM.A LIBROAM-COVER.O: a re-linked program may use any name but __wrap_* and roam_*.

A static library's global names meet the program's own in one link: a function
of ours called log_line would clash with, or be replaced by, the program's.
"""
import subprocess
import sys

import lists
import tap


def defined(path):
    """(kind, name) of the global symbols."""
    out = subprocess.run(["nm", "--defined-only", "--extern-only", path],
                         capture_output=True, text=True, check=True).stdout
    return [line.split()[1:] for line in out.splitlines() if len(line.split()) == 3]


def only_entries():
    names = [name for _, name in defined(sys.argv[1])]
    if len(names) < 50:
        return [f"only {len(names)} names: is that the archive?"]
    bad = [n for n in names if not n.startswith(("__wrap_", "roam_", "DW.ref."))]
    return [f"visible to programs: {n}" for n in bad[:10]]


def covered():
    """libc's names as the executable has them: all of the list, and all weak."""
    there = dict(reversed(d) for d in defined(sys.argv[2]))
    want = {n for kind, _, n in lists.calls() if kind != "PROG"}
    return [f"cover.S lacks {n}" for n in sorted(want - set(there))] + \
           [f"{n} of cover.S is not weak" for n, kind in there.items() if kind != "W"] + \
           [f"cover.S defines {n}" for n in there
            if n.removeprefix("__real_") not in want and not n.startswith("roam_")]


if __name__ == "__main__":
    sys.exit(tap.run([("nothing but the entries is visible", only_entries),
                      ("the whole process gets the names of the list", covered)]))
