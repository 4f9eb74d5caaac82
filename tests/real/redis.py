#!/usr/bin/env python3
"""redis, re-linked with roam, under redis-benchmark and repeated breaks.

Fetches Debian's source package, builds it once, links it a second time with
the library, and checks that the benchmark sees no error and that every
command took effect exactly once. Exit 77: cannot be done here, with a reason.
"""
import argparse
import functools
import glob
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "support"))
sys.dont_write_bytecode = True

import harness  # noqa: E402
from harness import Fail, Skip, wait_for  # noqa: E402

BINARIES = ["redis-server", "redis-benchmark", "redis-cli"]
CLIENTS = 20
# What each test of redis-benchmark leaves behind when it ran exactly n times.
TESTS = {
    "set": ("GET key:__rand_int__", None),
    "get": None,
    "incr": ("GET counter:__rand_int__", "n"),
    "lpush": ("LLEN mylist", "n"),
    "rpush": ("LLEN mylist", "n"),
    "hset": ("HLEN myhash", "1"),
    "mset": ("EXISTS key:__rand_int__", "1"),
}


def run(argv, cwd=None, log=None):
    """Runs a command; its output is shown only when it fails."""
    done = subprocess.run(argv, cwd=cwd, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace")
    if log:
        with open(log, "a") as f:
            f.write(f"$ {' '.join(argv)}\n{done.stdout}")
    return done.returncode, done.stdout


# ---- source -----------------------------------------------------------

def debian_sources():
    """The installed Debian entries as deb-src ones: same URI, same suite."""
    out = []
    for path in glob.glob("/etc/apt/sources.list.d/*.sources"):
        with open(path) as f:
            stanzas = re.split(r"\n\s*\n", f.read())
        for stanza in stanzas:
            field = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.M))
            if "deb" in field.get("Types", "").split() and \
                    "debian" in field.get("URIs", "") and \
                    "main" in field.get("Components", "").split():
                out.append("Types: deb-src\n" + "".join(
                    f"{k}: {field[k]}\n" for k in
                    ("URIs", "Suites", "Components", "Signed-By") if k in field))
    for path in ["/etc/apt/sources.list", *glob.glob("/etc/apt/sources.list.d/*.list")]:
        if not os.path.exists(path):
            continue
        with open(path) as f:
            for m in re.finditer(r"^deb\s+(?:\[(.*?)\]\s+)?(\S*debian\S*)\s+(\S+)"
                                 r"\s+(.*\bmain\b.*)$", f.read(), re.M):
                out.append(f"Types: deb-src\nURIs: {m[2]}\nSuites: {m[3]}\n"
                           f"Components: main\n" + "".join(
                               f"Signed-By: {v}\n" for v in
                               re.findall(r"signed-by=(\S+)", m[1] or "")))
    return out


def fetch(top, log):
    """The unpacked source tree, downloaded once."""
    trees = glob.glob(os.path.join(top, "src", "redis-*", "src", "Makefile"))
    if trees:
        return os.path.dirname(os.path.dirname(trees[0]))
    for tool in ("apt-get", "dpkg-source", "make", "cc"):
        if not shutil.which(tool):
            raise Skip(f"{tool} is not installed")
    sources = debian_sources()
    if not sources:
        raise Skip("no Debian entry in /etc/apt that could be made a deb-src one")
    for d in ("apt/lists/partial", "apt/cache/archives/partial", "src.new"):
        os.makedirs(os.path.join(top, d), exist_ok=True)
    entry = os.path.join(top, "apt", "roam.sources")
    with open(entry, "w") as f:
        f.write("\n".join(sources))
    # Everything private: the host's apt state is neither used nor changed.
    apt = ["apt-get", "-q", "-o", f"Dir::Etc::sourcelist={entry}",
           "-o", "Dir::Etc::sourceparts=-",
           "-o", f"Dir::State::lists={top}/apt/lists",
           "-o", f"Dir::Cache={top}/apt/cache", "-o", "APT::Sandbox::User=",
           "-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=20"]
    for step in (["update"], ["source", "redis"]):
        rc, out = run([*apt, *step], os.path.join(top, "src.new"), log)
        if rc != 0:
            last = (out.strip().splitlines() or ["no output"])[-1]
            raise Skip(f"apt-get {step[0]} failed (no network?): {last}")
    os.rename(os.path.join(top, "src.new"), os.path.join(top, "src"))
    return fetch(top, log)


# ---- build ------------------------------------------------------------

def make(tree, log, *extra):
    rc, out = run(["make", "-C", "src", f"-j{os.cpu_count()}", "MALLOC=libc",
                   "USE_SYSTEMD=no", "USE_SYSTEM_JEMALLOC=no", "OPT=-O2",
                   *extra, *BINARIES], tree, log)
    if rc != 0:
        tail = "\n".join(out.splitlines()[-15:])
        raise Fail(f"make failed in {tree}:\n{tail}")


def final_libs(tree):
    """What the Makefile itself links at the end; ours goes after it."""
    rc, out = run(["make", "-C", "src", "-pn", "MALLOC=libc", "USE_SYSTEMD=no",
                   "USE_SYSTEM_JEMALLOC=no", "redis-server"], tree)
    values = re.findall(r"^FINAL_LIBS\s*:?=\s*(.*)$", out, re.M)
    if not values:
        raise Fail(f"no FINAL_LIBS in redis' Makefile (make -pn: {rc})")
    return values[-1].strip()


def rsp_argument(path):
    """A response file for the compiler (-Wl,--wrap=x) or for the linker (--wrap=x)."""
    with open(path) as f:
        return ("@" if "-Wl," in f.read() else "-Wl,@") + path


def wrapped_symbols(path):
    done = subprocess.run(["nm", path], capture_output=True, text=True)
    return len(re.findall(r" __wrap_\w+$", done.stdout, re.M))


def build(args, top, log):
    """bin/plain and bin/roam; the second only links, with the objects of the first."""
    tree = fetch(top, log)
    plain, roam = (os.path.join(top, "bin", k) for k in ("plain", "roam"))
    os.makedirs(plain, exist_ok=True)
    os.makedirs(roam, exist_ok=True)
    if not os.path.exists(os.path.join(plain, BINARIES[-1])):
        make(tree, log)
        for b in BINARIES:
            shutil.copy(os.path.join(tree, "src", b), plain)
    inputs = max(os.path.getmtime(p) for p in (args.rsp, args.lib))
    last = os.path.join(roam, BINARIES[-1])
    if not os.path.exists(last) or os.path.getmtime(last) < inputs:
        libs = [final_libs(tree), rsp_argument(args.rsp), args.lib,
                "-lsodium", "-lz", "-lpthread", *args.ldflag]
        for b in BINARIES:
            os.unlink(os.path.join(tree, "src", b))
        make(tree, log, "FINAL_LIBS=" + " ".join(libs))
        for b in BINARIES:
            shutil.copy(os.path.join(tree, "src", b), roam)
    for b in BINARIES:
        n = wrapped_symbols(os.path.join(roam, b))
        if n == 0 and not args.shape_only:
            raise Fail(f"{b} has no __wrap_ symbol: a pass would mean nothing")
        print(f"# {b}: {n} wrapped symbols")


# ---- workload ---------------------------------------------------------

def server(case, kind):
    argv = [os.path.join(case.config.bin, kind, "redis-server"), "--port",
            str(case.config.port), "--bind", "127.0.0.1", "--save", "",
            "--appendonly", "no", "--daemonize", "no", "--dir", case.dir,
            "--logfile", ""]
    p = case.start(argv)
    p.expect("Ready to accept connections", 10)
    return p


def cli(case, kind, *words):
    p = case.start([os.path.join(case.config.bin, kind, "redis-cli"), "-p",
                    str(case.config.port), *words])
    p.succeed(10)
    return p.out().strip()


def benchmark(case, kind, test, n, pipeline):
    return case.start([os.path.join(case.config.bin, kind, "redis-benchmark"),
                       "-h", "127.0.0.1", "-p", str(case.config.port),
                       "-c", str(CLIENTS), "-n", str(n), "-P", str(pipeline),
                       "-t", test, "-q"])


def check_benchmark(case, b, test):
    b.succeed(60)
    text = b.out() + b.err()
    # The library's own log speaks of errors that it mends.
    text = re.sub(r"^roam\[\d+\]: .*$", "", text, flags=re.M)
    # -q redraws its line with \r; errors come on lines of their own
    bad = re.search(r"^.*(\bError\b|\bERR\b|Could not|WARNING).*$",
                    text.replace("\r", "\n"), re.M | re.I)
    case.check(not bad, f"{test}: {bad[0] if bad else ''}")
    case.check("requests per second" in text, f"{test}: no result was printed")


def check_effect(case, kind, test, n):
    """Lost or repeated commands leave another number than n."""
    if not TESTS[test]:
        return
    command, wanted = TESTS[test]
    got = cli(case, kind, *command.split())
    if wanted:
        wanted = str(n) if wanted == "n" else wanted
        case.check(got == wanted, f"{test}: {command} is {got}, not {wanted}")


def workload(case, server_kind, client_kind, pipeline, breaks):
    roam_both = server_kind == client_kind == "roam"
    shape_only = case.config.shape_only
    if breaks:
        case.need("both")
    s = server(case, server_kind)
    n = case.config.requests * (4 if pipeline > 1 else 1)
    n -= n % (pipeline * CLIENTS)       # whole batches: the counts are exact
    total = resumed = 0
    for test in TESTS:
        cli(case, client_kind, "FLUSHALL")
        known = len(s.connections("upgraded"))
        b = benchmark(case, client_kind, test, n, pipeline)
        if breaks and not shape_only:
            # Before all are upgraded a break is the business of plain TCP.
            # The upgrade is one step, but each end logs its own half.
            wait_for(lambda: not b.alive() or
                     len(b.connections("upgraded")) >= CLIENTS and
                     len(s.connections("upgraded")) >= known + CLIENTS, 10,
                     f"{CLIENTS} upgrades")
            case.check(b.alive(), f"{test} ended before it was upgraded")
            br = case.breaker([s, b], how="both", interval="5:40", until=b)
            case.seed += 1
        check_benchmark(case, b, test)
        if breaks and not shape_only:
            total += case.breaks_of(br)
            resumed += len(b.events("resumed"))
        case.check(s.alive(), "the server is gone")
        check_effect(case, client_kind, test, n)
        if not roam_both:
            case.check(not b.events("upgraded"), "upgraded with a plain end")
    case.check(cli(case, client_kind, "PING") == "PONG", "no PONG")
    if breaks and not shape_only:
        resumed = max(resumed, len(s.events("resumed")))
        case.note(f"{total} breaks, {resumed} resumed")
        case.check(total >= case.config.min_breaks,
                   f"only {total} breaks, {case.config.min_breaks} wanted")
        case.check(resumed >= total // 2,
                   f"{total} breaks but only {resumed} lines 'resumed'")
    elif not roam_both:
        case.check(not s.events("upgraded"), "upgraded with a plain end")
    rc = s.stop()
    case.check(rc == 0, f"the server ended with {harness.describe(rc)}")


def options():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rsp", required=True, help="file with all --wrap flags")
    p.add_argument("--lib", required=True, help="libroam.a")
    p.add_argument("--breaker", required=True)
    p.add_argument("--dir", default=os.environ.get("ROAM_REAL_DIR"),
                   help="where to download and build (default: $ROAM_REAL_DIR)")
    p.add_argument("--ldflag", action="append", default=[],
                   help="one more linker argument (a sanitizer's)")
    p.add_argument("--requests", type=int, default=100000)
    p.add_argument("--min-breaks", type=int, default=20, help="in each case")
    p.add_argument("--port", type=int, default=6390)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--shape-only", action="store_true",
                   help="accept binaries without the library, make no breaks: "
                        "tests this script, not roam")
    args = p.parse_args()
    if not args.dir:
        p.error("--dir or ROAM_REAL_DIR is needed")
    for name in ("rsp", "lib", "dir", "breaker"):
        setattr(args, name, os.path.abspath(getattr(args, name)))
    return args


def main():
    args = options()
    top = os.path.join(args.dir, "redis")
    if not os.environ.get(harness.IN_NETNS):    # the namespace has no network
        os.makedirs(top, exist_ok=True)
        try:
            build(args, top, os.path.join(top, "build.log"))
        except Skip as e:
            return harness.skip_all(e)
        except Fail as e:
            print(f"Bail out! {str(e).splitlines()[0]}")
            print(e, file=sys.stderr)
            return 1
    no_netns = harness.enter_netns()
    if no_netns:
        return harness.skip_all(no_netns)
    config = harness.Config(args.breaker, args.seed, no_netns=no_netns)
    config.bin = os.path.join(top, "bin")
    for k in ("port", "requests", "min_breaks", "shape_only"):
        setattr(config, k, getattr(args, k))
    part = functools.partial
    return harness.run_cases([
        ("re-linked server and benchmark, breaks", 180, part(
            workload, server_kind="roam", client_kind="roam", pipeline=1,
            breaks=True)),
        ("re-linked server and benchmark, pipelined, breaks", 180, part(
            workload, server_kind="roam", client_kind="roam", pipeline=16,
            breaks=True)),
        ("re-linked server, plain benchmark", 120, part(
            workload, server_kind="roam", client_kind="plain", pipeline=16,
            breaks=False)),
        ("plain server, re-linked benchmark", 120, part(
            workload, server_kind="plain", client_kind="roam", pipeline=16,
            breaks=False)),
    ], config)


if __name__ == "__main__":
    sys.exit(main())
