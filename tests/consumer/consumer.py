#!/usr/bin/env python3
"""A tiny program is re-linked in the ways that the README names.

As a meson parent project, against an installed copy through pkg-config, meson,
CMake and make, and by the bare compiler with the response file. Each result must
hold the entries, make its echo round trip, and be upgraded on both sides. A
second one (ask.c) uses roam.h, and must also run without the library. TAP.
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
        """The prefix below which it was installed; roam.pc is told that it lies there."""
        if not meson:
            raise tap.Skip("meson is not installed")
        run([meson, "install", "-C", args.build_dir, "--no-rebuild", "--quiet",
             "--destdir", tmp / "root"], env=environ())
        pcs = list((tmp / "root").rglob("roam.pc"))
        if len(pcs) != 1:
            raise Fail(f"{len(pcs)} files roam.pc were installed")
        text = pcs[0].read_text()
        prefix = tmp / "root" / re.search(r"^prefix=(.*)$", text, re.M)[1].lstrip("/")
        pcs[0].write_text(re.sub(r"^prefix=.*$", f"prefix={prefix}", text, flags=re.M))
        return prefix, pcs[0].parent

    def only(prefix, name):
        found = list(prefix.rglob(name))
        if len(found) != 1:
            raise Fail(f"{len(found)} files {name} were installed")
        return found[0]

    def sources(tmp, example):
        """What a user's project has: the example's build file and the programs."""
        src = tmp / "src"
        shutil.copytree(HERE / example, src)
        for c in ("echo.c", "ask.c"):
            shutil.copy(HERE / c, src)
        return src

    def both(where, tmp):
        try_out(where / "echo", tmp)
        said = run([where / "ask"], env=environ())
        if not said.startswith("with roam"):
            raise Fail(f"ask says: {said}")

    def need(program):
        return shutil.which(program) or tap_skip(f"{program} is not installed")

    def tap_skip(why):
        raise tap.Skip(why)

    def with_meson(tmp, src, **env):
        env = environ(CC=" ".join(cc), **env)
        run([meson, "setup", "--wrap-mode=nodownload", tmp / "b", src], env=env)
        run([meson, "compile", "-C", tmp / "b", "echo", "ask"], env=env)
        both(tmp / "b", tmp)

    def subproject(tmp):
        if not meson:
            raise tap.Skip("meson is not installed")
        src = sources(tmp, "meson")
        (src / "subprojects").mkdir()
        # What a user's checkout has: the sources, no build directories.
        shutil.copytree(TOP, src / "subprojects/roam",
                        ignore=shutil.ignore_patterns("build*", ".git", "__pycache__"))
        with_meson(tmp, src)

    def meson_installed(tmp):
        need("pkg-config")
        _, pc = install(tmp)
        with_meson(tmp, sources(tmp, "meson"), PKG_CONFIG_PATH=str(pc))

    def installed(tmp):
        pkgconf = need("pkg-config")
        _, pc = install(tmp)
        flags = run([pkgconf, "--cflags", "--libs", "roam"], env=environ(PKG_CONFIG_PATH=str(pc))).split()
        for name in ("echo", "ask"):
            run([*cc, "-O2", HERE / f"{name}.c", "-o", tmp / name, *flags])
        both(tmp, tmp)

    def with_cmake(tmp, example, **env):
        cmake = need("cmake")
        env = environ(CC=" ".join(cc), **env)
        run([cmake, "-S", sources(tmp, example), "-B", tmp / "b"], env=env)
        run([cmake, "--build", tmp / "b"], env=env)
        both(tmp / "b", tmp)

    def cmake_package(tmp):
        need("cmake")
        prefix, _ = install(tmp)
        only(prefix, "roamConfigVersion.cmake")
        with_cmake(tmp, "cmake", CMAKE_PREFIX_PATH=str(prefix))

    def cmake_pkgconfig(tmp):
        need("cmake")
        need("pkg-config")
        _, pc = install(tmp)
        with_cmake(tmp, "cmake-pkgconfig", PKG_CONFIG_PATH=str(pc))

    def makefile(tmp):
        prefix, _ = install(tmp)
        src = sources(tmp, "make")
        run([need("make"), "-C", src, f"CC={' '.join(cc)}", f"ROAM={prefix}",
             f"LIBDIR={only(prefix, 'libroam.a').parent}"], env=environ())
        both(src, tmp)

    def response_file(tmp):
        prefix, _ = install(tmp)
        # Fortified: the names of the calls change, the list must know them.
        for name in ("echo", "ask"):
            run([*cc, "-O2", "-D_FORTIFY_SOURCE=2", HERE / f"{name}.c", "-o", tmp / name,
                 f"-I{only(prefix, 'roam.h').parent}", f"-Wl,@{only(prefix, 'roam.rsp')}",
                 "-L", only(prefix, "libroam.a").parent, "-lroam", "-lsodium", "-pthread"])
        both(tmp, tmp)

    def without(tmp):
        """roam.h in a program that is not re-linked: however it is linked, it runs, and knows it."""
        prefix, _ = install(tmp)
        inc = f"-I{only(prefix, 'roam.h').parent}"
        bad = []
        for flags in ([], ["-O2", "-fPIE", "-pie"], ["-fno-pie", "-no-pie"], ["-O2", "-flto"], ["-static"],
                      ["-static-pie"], ["-Wl,-z,now"], ["-Wl,--gc-sections", "-s"]):
            try:
                run([*cc, "-Wall", "-Wextra", "-Werror", inc, *flags, HERE / "ask.c", "-o", tmp / "ask"])
            except Fail as e:
                # A compiler without that kind of link is not ours to mend.
                if "-flto" in flags or "-static-pie" in flags:
                    continue
                raise e
            said = run([tmp / "ask"])
            if said != "without roam\n":
                bad.append(f"{' '.join(flags)}: {said}")
        if bad:
            raise Fail("\n".join(bad))

    def library(tmp):
        """A shared library of the program asks: with -lroam in the program it finds the functions there."""
        prefix, _ = install(tmp)
        inc = f"-I{only(prefix, 'roam.h').parent}"
        src, main_c = tmp / "lib.c", tmp / "main.c"
        src.write_text((HERE / "ask.c").read_text().replace("int main(void)", "int ask(void)"))
        main_c.write_text("int ask(void);\nint main(void) { return ask(); }\n")
        run([*cc, "-shared", "-fPIC", "-O2", inc, src, "-o", tmp / "libask.so"])
        base = [*cc, main_c, "-o", tmp / "ask", f"-L{tmp}", "-lask", f"-Wl,-rpath,{tmp}"]
        run(base)
        if run([tmp / "ask"]) != "without roam\n":
            raise Fail("it finds roam where there is none")
        run([*base, f"-Wl,@{only(prefix, 'roam.rsp')}", "-L", only(prefix, "libroam.a").parent, "-lroam",
             "-lsodium", "-pthread"])
        said = run([tmp / "ask"], env=environ())
        if not said.startswith("with roam"):
            raise Fail(f"the library says: {said}")

    return tap.run([
        ("meson: as a subproject", in_tmp(subproject)),
        ("meson: against an installed copy", in_tmp(meson_installed)),
        ("pkg-config: against an installed copy", in_tmp(installed)),
        ("CMake: find_package", in_tmp(cmake_package)),
        ("CMake: pkg-config module", in_tmp(cmake_pkgconfig)),
        ("make: a Makefile with the response file", in_tmp(makefile)),
        ("the bare compiler, with the response file", in_tmp(response_file)),
        ("roam.h without roam", in_tmp(without)),
        ("roam.h in a shared library", in_tmp(library)),
    ])


if __name__ == "__main__":
    sys.exit(main())
