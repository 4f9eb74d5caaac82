#!/usr/bin/env python3
"""completion.py ROAMCTL: bash completes what roamctl has."""
import os
import re
import shutil
import subprocess
import sys

import lists
import tap


def complete(*words):
    """What bash would offer for the last of these words."""
    script = f"""
    source {lists.TOP}/agent/roamctl.bash
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    _roamctl; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "--norc", "-c", script, "bash", *words], capture_output=True, text=True, timeout=20)
    if done.stderr:
        raise RuntimeError(done.stderr)
    return done.stdout.split()


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    ctl = sys.argv[1]
    source = (lists.TOP / "agent/roamctl.c").read_text()

    def need():
        if not shutil.which("bash"):
            raise tap.Skip("bash is not installed")

    def commands():
        need()
        want = re.findall(r'^\tCOMMAND\("(\w+)"', source, re.M)
        there = complete(ctl, "")
        bad = [f"{c} is not completed" for c in want if c not in there] + [f"{c} is no command" for c in there if c not in want]
        return bad + ([] if complete(ctl, "do") == ["doctor"] and complete(ctl, "--dir", "/x", "fr") == ["freeze"]
                      else ["a beginning is not completed"])

    def options():
        need()
        want = ["--" + o for o in re.findall(r'\{ "([\w-]+)", (?:no|required)_argument', source)]
        there = complete(ctl, "--")
        return [f"{o} is not completed" for o in want if o not in there] + [f"{o} is no option" for o in there if o not in want]

    def files():
        need()
        here = os.path.join(str(lists.TOP), "agent", "roamctl.ba")
        return [] if complete(ctl, "doctor", here) == [here + "sh"] else ["doctor completes no file"]

    return tap.run([("commands", commands), ("options", options), ("files", files)])


if __name__ == "__main__":
    sys.exit(main())
