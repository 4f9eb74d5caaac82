#!/usr/bin/env python3
"""names.py LIBROAM.A: a re-linked program may use any name but __wrap_* and roam_*.

A static library's global names meet the program's own in one link: a function
of ours called log_line would clash with, or be replaced by, the program's.
"""
import subprocess
import sys

import tap


def only_entries():
    out = subprocess.run(["nm", "--defined-only", "--extern-only", sys.argv[1]],
                         capture_output=True, text=True, check=True).stdout
    names = [line.split()[-1] for line in out.splitlines() if len(line.split()) == 3]
    if len(names) < 50:
        return [f"only {len(names)} names: is that the archive?"]
    bad = [n for n in names if not n.startswith(("__wrap_", "roam_"))]
    return [f"visible to programs: {n}" for n in bad[:10]]


if __name__ == "__main__":
    sys.exit(tap.run([("nothing but the entries is visible", only_entries)]))
