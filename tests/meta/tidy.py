#!/usr/bin/env python3
"""tidy.py: what a reader of any file may rely on."""
import re
import subprocess
import sys

import lists
import tap

TOP = lists.TOP
LONG = 600          # lines of one file of lib/ or wrap/; "not much longer"
TOO_LONG = 1200
# In pieces, so that this file does not find itself.
MACHINE = [re.escape(s) for s in ("/" + "work/", "/" + "home/", "/" + "root/", "/" + "Users/")]
REGISTRIES = [re.escape(s) for s in (
    "pypi" + ".org", "pythonhosted" + ".org", "npmjs" + ".", "crates" + ".io",
    "proxy.golang" + ".org", "rubygems" + ".org", "deb.debian" + ".org",
    "security.debian" + ".org", "ftp.debian" + ".org", "wrapdb.mesonbuild" + ".com",
    "artifact" + "ory", "mirror" + ".gcr.io")]
TEXT = {".c", ".h", ".def", ".py", ".sh", ".md", ".build", ".txt", ".in", ".wrap", ".frozen",
        ".7", ".json", ".hex", ""}


def files():
    """Tracked files and new ones, without what is ignored."""
    try:
        out = subprocess.run(["git", "-C", str(TOP), "ls-files", "-z", "--cached", "--others",
                              "--exclude-standard"], check=True, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL).stdout.decode()
        found = [TOP / p for p in out.split("\0") if p]
    except (OSError, subprocess.CalledProcessError):
        found = [p for p in TOP.rglob("*") if not any(
            x.startswith("build") or x in (".git", "__pycache__")
            for x in p.relative_to(TOP).parts)]
    return sorted(p for p in found if p.is_file() and p.suffix in TEXT and p.name != "LICENSE")


def text(path):
    return path.read_text(errors="replace")


def grep(patterns, why):
    bad = []
    rx = re.compile("|".join(patterns))
    for path in files():
        for i, line in enumerate(text(path).splitlines(), 1):
            m = rx.search(line)
            if m:
                bad.append(f"{path.relative_to(TOP)}:{i}: {m[0]}: {why}")
    return bad


def white():
    bad = []
    for path in files():
        body = text(path)
        rel = path.relative_to(TOP)
        if body and not body.endswith("\n"):
            bad.append(f"{rel}: the last line has no end")
        for i, line in enumerate(body.splitlines(), 1):
            if line != line.rstrip():
                bad.append(f"{rel}:{i}: white space at the end of the line")
            if path.suffix in (".c", ".h") and path.parts[-2] in ("lib", "wrap") and \
                    re.match(r" {8}", line):
                bad.append(f"{rel}:{i}: indent with tabs")
    return bad


def sizes():
    bad = []
    for path in files():
        if path.suffix in (".c", ".h") and path.parts[-2] in ("lib", "wrap"):
            n = len(text(path).splitlines())
            if n > TOO_LONG:
                bad.append(f"{path.relative_to(TOP)} has {n} lines: split it")
            elif n > LONG:
                print(f"# warning: {path.relative_to(TOP)} has {n} lines, {LONG} is the aim")
    return bad


def links():
    """Relative links and `path`s of the documents lead somewhere."""
    bad = []
    for path in files():
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text(path)):
            if not (path.parent / target).exists():
                bad.append(f"{path.relative_to(TOP)}: no file {target}")
        for target in re.findall(r"`((?:lib|wrap|tests|bench|docs|examples|\.ci)/[\w./-]+\w)`",
                                 text(path)):
            if not (TOP / target).exists() and not list(TOP.glob(target + ".*")):
                bad.append(f"{path.relative_to(TOP)}: no file {target}")
    return bad


def main():
    return tap.run([
        ("no file names a place of one machine", lambda: grep(MACHINE, "a path of one machine")),
        ("no file names a package registry", lambda: grep(REGISTRIES, "a registry's host")),
        ("lines end where they end", white),
        ("the files of lib/ and wrap/ are short", sizes),
        ("what the documents point to exists", links),
    ])


if __name__ == "__main__":
    sys.exit(main())
