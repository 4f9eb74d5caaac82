#!/usr/bin/env python3
"""A small program is linked in many ways; all its connections must be roam's.

Each case builds prog.c with one compiler, one linker, one kind of link, runs it
as server and client with one connection for every way in which a call can be
made (see prog.c), and breaks connections until each has been resumed. Where
coverage is not whole, it says so, and those connections stay plain. TAP.
"""
import argparse
import functools
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))
sys.dont_write_bytecode = True

import harness  # noqa: E402
from harness import Fail, Skip, wait_for  # noqa: E402

OWN = ["own"]
SHARED = ["own", "linked", "dlopen", "default", "mixed"]
NAMED = ["next", "libc"]		# dlsym past the executable: with --wrap=dlsym
LINKERS = {"bfd": "ld.bfd", "gold": "ld.gold", "lld": "ld.lld", "mold": "mold"}


class Variant:
    """How the program is built, and what must come of it."""

    def __init__(self, name, cc="gcc", linker=None, flags=(), how="whole", ways=None, plain=(),
                 says="cover whole", lib=()):
        self.name = name
        self.cc = cc
        self.linker = linker
        self.flags = list(flags)
        self.how = how
        self.ways = ways or SHARED + NAMED
        self.plain = plain              # of the ways, those that are not upgraded
        self.says = says
        self.lib = list(lib)            # flags of the shared library


def variants():
    for cc in ("gcc", "clang"):
        for ld in LINKERS:
            yield Variant(f"{cc}, {ld}", cc, ld)
    for ld in LINKERS:
        yield Variant(f"{ld}, no PIE", "gcc", ld, ["-no-pie", "-fno-pie"])
        yield Variant(f"{ld}, one flag: -lroam", "gcc", ld, how="one flag", plain=NAMED)
        yield Variant(f"{ld}, --gc-sections, --exclude-libs, stripped, -z now", "gcc", ld,
                      ["-ffunction-sections", "-fvisibility=hidden", "-Wl,--gc-sections",
                       "-Wl,--exclude-libs,ALL", "-Wl,-z,now", "-s"])
        yield Variant(f"{ld}, -static", "gcc", ld, ["-static"], ways=OWN,
                      says="cover wrap-only unseen=none")
        yield Variant(f"{ld}, wrap only", "gcc", ld, how="wrap",
                      plain=["linked", "dlopen", "mixed"], lib=["-DNO_EPOLL"],
                      says=r"cover wrap-only unseen=libcalls\.so")
        yield Variant(f"{ld}, wrap only, a library uses epoll", "gcc", ld, how="wrap",
                      plain=SHARED + NAMED, says=r"cover lost reason=cover unseen=libcalls\.so")
        yield Variant(f"{ld}, version script", "gcc", ld, [f"-Wl,--version-script={HERE}/hide.map"],
                      plain=SHARED + NAMED,
                      says=r"cover lost reason=cover missing=\w+ others=\d+ unseen=\S*libcalls\.so")
    yield Variant("bfd, -static-pie", "gcc", "bfd", ["-static-pie"], ways=OWN,
                  says="cover wrap-only unseen=none")
    yield Variant("gcc -O2 -D_FORTIFY_SOURCE=2", "gcc", "bfd", ["-O2", "-D_FORTIFY_SOURCE=2"])
    yield Variant("bfd, -rdynamic, --as-needed", "gcc", "bfd", ["-rdynamic", "-Wl,--as-needed"])
    yield Variant("RTLD_DEEPBIND", "gcc", "bfd", ways=["own", "deep"], plain=["deep"])
    for ld in LINKERS:
        yield Variant(f"{ld}, a library with the response file too", "gcc", ld,
                      lib=["-Wl,@RSP"])
    for ld in ("bfd", "gold", "mold"):      # lld does not read gcc's
        yield Variant(f"gcc -flto, {ld}", "gcc", ld, ["-O2", "-flto"])
    yield Variant("gcc -flto -static, bfd", "gcc", "bfd", ["-O2", "-flto", "-static"], ways=OWN,
                  says="cover wrap-only unseen=none")
    yield Variant("clang -flto, lld", "clang", "lld", ["-O2", "-flto"])
    yield Variant("clang -flto=thin, lld", "clang", "lld", ["-O2", "-flto=thin"])
    for cc in ("g++", "clang++"):
        yield Variant(f"C++, {cc}", cc)
    yield Variant("C++, g++ -flto", "g++", "bfd", ["-O2", "-flto"])
    yield Variant("C++, g++ -static", "g++", "bfd", ["-static"], ways=OWN,
                  says="cover wrap-only unseen=none")


def link(config, how):
    """The compiler's last arguments: how roam comes into the program."""
    lib = ["-L", config.lib]
    return {"whole": [f"-Wl,@{config.rsp}", *lib, "-lroam", "-lsodium", "-pthread"],
            "one flag": [*lib, "-lroam", "-lsodium", "-pthread"],
            "wrap": [f"-Wl,@{config.rsp}", f"{config.lib}/libroam.a", "-lsodium", "-pthread"]}[how]


def run(*cmd):
    done = subprocess.run([str(x) for x in cmd], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        if re.search(r"LLVMgold\.so|liblto_plugin|-flto\S* is not", done.stdout):
            raise Skip("no plugin for link-time optimization")
        raise Fail(" ".join(map(str, cmd))[:1500] + "\n" + done.stdout[-1500:])
    return done.stdout


def build(case, v):
    c = case.config
    compiler = shutil.which(v.cc)
    if not compiler:
        raise Skip(f"{v.cc} is not installed")
    if v.linker and not shutil.which(LINKERS[v.linker]):
        raise Skip(f"{LINKERS[v.linker]} is not installed")
    base = [compiler] + ([f"-fuse-ld={v.linker}"] if v.linker else []) + ["-g", "-Wall"]
    static = any(f.startswith("-static") for f in v.flags)
    where = pathlib.Path(case.dir)
    for name in ("libcalls.so", "plugin.so", "deep.so"):
        run("cc", "-O2", *[f.replace("RSP", c.rsp) for f in v.lib], "-DSHARED", "-DCALLS=lib_calls",
            "-fPIC", "-shared", HERE / "calls.c", "-o", where / name, f"-Wl,-soname,{name}")
    own = where / "own.o"
    optimize = [f for f in v.flags if f.startswith(("-O", "-flto", "-f"))]
    cc_c = compiler.replace("++", "cc" if v.cc == "g++" else "")
    run(cc_c if shutil.which(cc_c) else "cc", *optimize, "-DCALLS=own_calls", "-c", HERE / "calls.c",
        "-o", own)
    roam = link(c, v.how)
    linked = [] if static else ["-DLINKED", f"-L{where}", f"-Wl,-rpath,{where}"]
    source = ["-xc++", HERE / "prog.c", "-xnone"] if v.cc.endswith("++") else [HERE / "prog.c"]
    out = run(*base, *v.flags, *(["-DSTATIC"] if static else []), *linked[:1], *source, own,
              "-o", where / "prog", *linked[1:], *([] if static else ["-lcalls", "-ldl"]), *roam)
    if out:
        case.note(out.splitlines()[0][:120])
    return where / "prog"


def check(case, v):
    exe = build(case, v)
    ways = v.ways
    env = case.environ(COVER_PLUGIN=os.path.join(case.dir, "plugin.so"),
                       COVER_DEEP=os.path.join(case.dir, "deep.so"))
    server = case.start([exe, "server", *ways], env=env)
    ports = server.expect(r"^listening on (\S+)$")[1]
    client = case.start([exe, "client", ports, *ways], env=env)
    both = [server, client]
    want = len(ways) - len(v.plain)
    if want:
        wait_for(lambda: all(len(p.connections("upgraded")) >= want for p in both)
                 or not all(p.alive() for p in both), 10, f"{want} upgrades on both ends")
        case.need("kill")
        # One kind of break at a time, until each connection has had its own.
        b = case.breaker(both, interval="4:12", until=client, max_seconds=30) if not v.plain else \
            case.start([case.config.breaker, "--how", "kill", "--interval-ms", "4:12", "--seed",
                        str(case.seed), "--port", ports.split(",")[0], "--count", "1",
                        "--max-seconds", "20"])
        resumed = want if not v.plain else 1
        wait_for(lambda: all(len(p.connections("resumed")) >= resumed for p in both)
                 or not all(p.alive() for p in both), 25, f"{resumed} connections to be resumed")
        case.breaks_of(b)
    # Long enough for an upgrade of the others, had there been one.
    client.expect(r"^200 rounds$", 20)
    client.signal(signal.SIGTERM)
    client.succeed(10)
    server.succeed(10)
    for p in both:
        said = re.search(r"^roam\[\d+\]: (cover .*)$", p.err(), re.M)
        case.check(said, f"{p.label} does not say how it is covered")
        case.check(re.match(v.says, said[1]), f"{p.label} says: {said[1]}")
        case.check(len(p.connections("upgraded")) == want,
                   f"{p.label}: {len(p.connections('upgraded'))} connections upgraded, "
                   f"{want} wanted")
        case.check(re.search(r"^ok \d+ rounds$", p.out(), re.M), f"{p.label} says nothing of its end")
    if want:
        case.note(f"{want} of {len(ways)} upgraded, "
                  f"{len(client.events('resumed'))} times resumed")
    else:
        case.note(f"0 of {len(ways)} upgraded")


def refused(case, ld):
    """Two copies in one process would not know of each other: no library links."""
    if not shutil.which(LINKERS[ld]):
        raise Skip(f"{LINKERS[ld]} is not installed")
    flags = link(case.config, "whole")
    try:
        run("gcc", f"-fuse-ld={ld}", "-DCALLS=lib_calls", "-fPIC", "-shared", HERE / "calls.c",
            "-o", os.path.join(case.dir, "lib.so"), *flags)
    except Fail as e:
        case.check("roam_is_for_the_program_not" in str(e), f"it says only: {e}")
        return
    raise Fail("a shared library with roam in it was linked")


def third(case, what, how):
    """The connection is the program's, the calls on it are a library's."""
    c, exe = case.config, pathlib.Path(case.dir) / f"third-{what}"
    pkgs = {"tls": ["openssl"], "event": ["libevent"]}[what]
    if not shutil.which("pkg-config") or \
            subprocess.run(["pkg-config", "--exists", *pkgs], check=False).returncode:
        raise Skip(f"{pkgs[0]} is not installed")
    flags = shlex.split(run("pkg-config", "--cflags", "--libs", *pkgs))
    run("cc", "-O2", "-Wall", *(["-DTLS"] if what == "tls" else []), HERE / "third.c", "-o", exe,
        *flags, *link(c, how))
    server = case.start([exe, "server"])
    client = case.start([exe, "client", server.expect(r"^listening on (\d+)$")[1]])
    both = [server, client]
    if how == "wrap":
        says = {"tls": r"cover wrap-only unseen=\S*libcrypto",
                "event": r"cover lost reason=cover unseen=\S*libevent"}[what]
        wait_for(lambda: re.search(says, client.err()), 5, "the client to say what is not seen")
        # With breaks it would end as any TCP connection does; it must go on without.
        time.sleep(0.3)
        case.check(not client.connections("upgraded"), "upgraded, though its bytes go past the library")
    else:
        wait_for(lambda: all(p.connections("upgraded") for p in both) or
                 not all(p.alive() for p in both), 10, "both ends to be upgraded")
        case.need("kill")
        b = case.breaker(both, interval="4:12", until=client, max_seconds=30)
        wait_for(lambda: all(len(p.events("resumed")) >= 5 for p in both) or
                 not all(p.alive() for p in both), 25, "5 resumes")
        case.breaks_of(b)
    client.signal(signal.SIGTERM)
    client.succeed(10)
    server.succeed(10)
    for p in both:
        case.check(re.search(r"^ok \d+ rounds$", p.out(), re.M), f"{p.label} says nothing of its end")
    case.note(f"{len(client.events('resumed'))} times resumed")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rsp", required=True, help="the response file with the --wrap flags")
    p.add_argument("--lib", required=True, help="where libroam.so and libroam.a are")
    p.add_argument("--breaker", required=True)
    p.add_argument("--sanitize", default="none", help="the build's b_sanitize")
    p.add_argument("groups", nargs="*")
    args = harness.parse_run(p, [])
    if args.sanitize != "none":
        return harness.skip_all(f"an archive built with {args.sanitize} is not for others")
    cases = [(v.name, 90, functools.partial(check, v=v)) for v in variants()
             if args.only in v.name]
    cases += [(f"{ld}, a shared library with roam in it is refused", 60,
               functools.partial(refused, ld=ld)) for ld in LINKERS if args.only in "refused"]
    cases += [c for c in ((f"{what} in a shared library, {how}", 60,
                           functools.partial(third, what=what, how=how))
                          for what in ("tls", "event") for how in ("whole", "one flag", "wrap"))
              if args.only in c[0]]
    if args.list:
        print("\n".join(name for name, _, _ in cases))
        return 0
    no_netns = harness.enter_netns()
    config = harness.Config(args.breaker, args.seed, args.keep, no_netns)
    config.rsp, config.lib = args.rsp, args.lib
    print(f"# seed {args.seed}" + (f"; no namespace: {no_netns}" if no_netns else ""))
    return harness.run_cases(cases, config)


if __name__ == "__main__":
    sys.exit(main())
