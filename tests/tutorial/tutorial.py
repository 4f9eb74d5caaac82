#!/usr/bin/env python3
"""docs/tutorial.md is run, and what it shows must be what is printed. TAP.

Commands are the lines "$ ..." of its blocks, given to one shell; what follows
each is its output. Numbers, identities and widths of columns may differ. With
--update the page gets the output that was printed. Root and namespaces are
needed: it runs in private ones, so that nothing of the host is touched.
"""
import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(TOP / "tests/meta"))

import tap  # noqa: E402

INSIDE = "ROAM_TUTORIAL_INSIDE"
END = "== end of this command =="


def blocks(text):
    """[(before, [(command, output)])], and what follows the last block."""
    found, last = [], 0
    for m in re.finditer(r"^```\n(.*?)^```\n", text, re.M | re.S):
        steps = []
        for line in m[1].splitlines():
            if line.startswith("$ "):
                steps.append((line[2:], []))
            else:
                steps[-1][1].append(line)
        found.append((text[last:m.start()], steps))
        last = m.end()
    return found, text[last:]


def shape(line):
    """What must be equal: words, not numbers, identities and widths."""
    line = re.sub(r"\b[0-9a-f]{8}\b", "ID", line)
    # Who notices a break first, and by what, is a matter of microseconds.
    line = re.sub(r"broken reason=\w+", "broken reason=WHAT", line)
    line = re.sub(r"\b\d+(\.\d+)?(us|ms|s|[KMG])?\b", "N", line)
    return " ".join(line.split())


class Shell:
    """One bash for the whole page: its jobs and variables stay."""

    def __init__(self, cwd):
        self.p = subprocess.Popen(["bash", "--norc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, cwd=cwd, bufsize=1)

    def run(self, command):
        self.p.stdin.write(f"{command}\necho '{END}'\n")
        out = []
        for line in self.p.stdout:
            if line.rstrip("\n").endswith(END):
                rest = line.rstrip("\n")[:-len(END)]
                return out + ([rest] if rest else [])
            # what bash says of its own jobs
            if not re.match(r"\S+: line \d+: +\d+ (Terminated|Killed)|\[\d+\]", line):
                out.append(line.rstrip("\n"))
        return out + ["(the shell has ended)"]

    def close(self):
        self.p.stdin.close()
        self.p.wait(20)


def private():
    """Why it cannot be run here, or None; then this is a process in namespaces of its own."""
    if os.environ.get(INSIDE):
        return None
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    for tool in ("unshare", "ip", "ss", "bash", "cc", "mount"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    # A process namespace of its own, too: what the page starts ends with it.
    how = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    ready = "ip link set lo up && mount -t tmpfs none /run"
    done = subprocess.run([*how, "sh", "-c", ready], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        return "no namespaces: " + " ".join(done.stderr.split())
    os.environ[INSIDE] = "1"
    sys.stdout.flush()
    os.execvp(how[0], [*how, "sh", "-c", f'{ready} && exec "$@"', "sh", sys.executable, *sys.argv])
    return None


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--build", required=True, type=pathlib.Path, help="the build directory")
    p.add_argument("--page", type=pathlib.Path, default=TOP / "docs/tutorial.md")
    p.add_argument("--sanitize", default="none", help="the build's b_sanitize")
    p.add_argument("--update", action="store_true")
    args = p.parse_args()
    why = "an archive built with a sanitizer is not for others" if args.sanitize != "none" else private()
    if why:
        print(f"1..0 # SKIP {why}")
        return 0
    build = args.build.resolve()
    # The page says ../wrap and ../../docs: the same places, wherever the build directory is.
    work = pathlib.Path(tempfile.mkdtemp(prefix="roam-t-", dir="/tmp"))
    os.symlink(TOP / "docs", work / "docs")
    (work / "build").mkdir()
    for part in ("wrap", "agent"):
        os.symlink(build / part, work / "build" / part)
    for var in [v for v in os.environ if v.startswith("ROAM") and v != INSIDE]:
        del os.environ[var]
    found, rest = blocks(args.page.read_text())
    shell = Shell(work)
    results, new = [], ""
    try:
        for before, steps in found:
            new += before + "```\n"
            for command, want in steps:
                got = shell.run(command)
                results.append((command, want, got))
                new += f"$ {command}\n" + "".join(line + "\n" for line in got)
            new += "```\n"
    finally:
        shell.close()
        shutil.rmtree(work, ignore_errors=True)
    if args.update:
        args.page.write_text(new + rest)

    def check(want, got):
        if [shape(x) for x in want] == [shape(x) for x in got]:
            return []
        return [f"the page: {x}" for x in want] + [f"printed:  {x}" for x in got]
    return tap.run([(f"$ {c[:70]}", lambda w=w, g=g: check(w, g)) for c, w, g in results])


if __name__ == "__main__":
    sys.exit(main())
