#!/usr/bin/env python3
"""A tiny program is re-linked in the three ways that the README names.

as a meson parent project, against an installed copy through pkg-config, and by
the bare compiler with the response file. Each result must hold the entries,
make its echo round trip, and be upgraded on both sides. TAP.
"""
import argparse
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parent.parent
sys.path.insert(0, str(TOP / "tests/meta"))

import tap  # noqa: E402

LIMIT = 300


class Fail(Exception):
    pass


def run(cmd, **how):
    done = subprocess.run([str(c) for c in cmd], stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT, **how)
    if done.returncode:
        raise Fail(f"{' '.join(map(str, cmd))[:400]}\nexit status {done.returncode}\n" +
                   "\n".join(done.stdout.splitlines()[-12:]))
    return done.stdout


def environ(**more):
    """Without what the outer `meson test` and the caller's shell set."""
    env = {k: v for k, v in os.environ.items()
           if not k.startswith(("ROAM", "MESON", "PKG_CONFIG", "NINJA", "DESTDIR"))}
    env.update(more)
    return env


def try_out(exe, tmp):
    """It holds our entries, its bytes come back, and both ends were upgraded."""
    symbols = run([os.environ.get("NM", "nm"), exe])
    for name in ("recv", "send", "connect", "close", "poll"):
        if not re.search(rf" T __wrap_{name}$", symbols, re.M):
            raise Fail(f"{exe.name} has no __wrap_{name}")
    where = tmp / "rendezvous"
    where.mkdir(mode=0o700)
    out = run([exe], env=environ(ROAM_DIR=str(where), ROAM_LOG="info"))
    upgraded = re.findall(r"^roam\[\d+\]: [0-9a-f]{8} upgraded ", out, re.M)
    if "cover whole" not in out:
        raise Fail(f"not the whole process is covered:\n{out}")
    if len(upgraded) != 2:
        raise Fail(f"{len(upgraded)} ends were upgraded, 2 wanted:\n{out}")
    out = run([exe], env=environ(ROAM="off", ROAM_DIR=str(where), ROAM_LOG="info"))
    if "upgraded" in out:
        raise Fail(f"ROAM=off, but:\n{out}")


def in_tmp(fn):
    def check():
        # Short: the path of a UNIX socket has 107 bytes.
        tmp = pathlib.Path(tempfile.mkdtemp(prefix="roam-c-", dir="/tmp"))
        try:
            fn(tmp)
        except Fail as e:
            return str(e).splitlines()
        finally:
            shutil.rmtree(tmp, ignore_errors=True)
        return []
    return check


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--build-dir", required=True, type=pathlib.Path)
    p.add_argument("--sanitize", default="none", help="the build's b_sanitize")
    p.add_argument("--cc", default=os.environ.get("CC", "cc"))
    args = p.parse_args()
    cc = shlex.split(args.cc)
    if args.sanitize != "none":
        print(f"1..0 # SKIP an archive built with {args.sanitize} is not for others")
        return 0
    meson = shutil.which("meson")

    def install(tmp):
        if not meson:
            raise tap.Skip("meson is not installed")
        run([meson, "install", "-C", args.build_dir, "--no-rebuild", "--quiet",
             "--destdir", tmp / "root"], env=environ())
        pcs = list((tmp / "root").rglob("roam.pc"))
        if len(pcs) != 1:
            raise Fail(f"{len(pcs)} files roam.pc were installed")
        prefix = re.search(r"^prefix=(.*)$", pcs[0].read_text(), re.M)[1]
        return pcs[0], tmp / "root" / prefix.lstrip("/")

    def subproject(tmp):
        if not meson:
            raise tap.Skip("meson is not installed")
        src = tmp / "src"
        shutil.copytree(HERE / "parent", src)
        shutil.copy(HERE / "echo.c", src)
        (src / "subprojects").mkdir()
        # What a user's checkout has: the sources, no build directories.
        shutil.copytree(TOP, src / "subprojects/roam",
                        ignore=shutil.ignore_patterns("build*", ".git", "__pycache__"))
        env = environ(CC=" ".join(cc))
        run([meson, "setup", "--wrap-mode=nodownload", tmp / "b", src], env=env)
        run([meson, "compile", "-C", tmp / "b", "consumer"], env=env)
        try_out(tmp / "b/consumer", tmp)

    def installed(tmp):
        pkgconf = shutil.which("pkg-config")
        if not pkgconf:
            raise tap.Skip("pkg-config is not installed")
        pc, prefix = install(tmp)
        env = environ(PKG_CONFIG_PATH=str(pc.parent))
        flags = run([pkgconf, "--cflags", "--libs", f"--define-variable=prefix={prefix}",
                     "roam"], env=env).split()
        run([*cc, "-O2", HERE / "echo.c", "-o", tmp / "consumer", *flags])
        try_out(tmp / "consumer", tmp)

    def response_file(tmp):
        _, prefix = install(tmp)
        rsp = list(prefix.rglob("roam.rsp"))
        lib = list(prefix.rglob("libroam.a"))
        if len(rsp) != 1 or len(lib) != 1:
            raise Fail("roam.rsp or libroam.a is not installed")
        # Fortified: the names of the calls change, the list must know them.
        run([*cc, "-O2", "-D_FORTIFY_SOURCE=2", HERE / "echo.c", "-o", tmp / "consumer",
             f"-Wl,@{rsp[0]}", "-L", lib[0].parent, "-lroam", "-lsodium", "-l:libz.a", "-pthread"])
        try_out(tmp / "consumer", tmp)

    return tap.run([
        ("as a subproject of a meson project", in_tmp(subproject)),
        ("against an installed copy, with pkg-config", in_tmp(installed)),
        ("by the bare compiler, with the response file", in_tmp(response_file)),
    ])


if __name__ == "__main__":
    sys.exit(main())
