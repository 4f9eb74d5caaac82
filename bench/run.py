#!/usr/bin/env python3
"""
What re-linking costs and brings, on this machine: measures, and writes JSON, a report and plots.

All variants are alive at the same time, and short slices of them alternate in
random order, so that the drift of a shared machine is in all of them alike.
See bench/README.md.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parent
sys.path.insert(0, str(HERE))

import engine                                   # noqa: E402
import places                                   # noqa: E402
import report                                   # noqa: E402
from pairs import BenchError, Node, Refuse      # noqa: E402

PARTS = ("paper", "core", "short", "growth", "resume", "codec")
SIZES = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
FORMAT = 1


def load_part(name):
    return __import__("part_" + name)


def parser():
    p = argparse.ArgumentParser(
        description="Measures roam on this machine; see bench/README.md.",
        epilog="Exit: 0 measured; 1 something failed, or a column was lost; 2 refused, because a connection was "
               "not what it should be (upgraded, on a ring, plain); 3 with --check, a goal was missed.")
    p.add_argument("--build", default=str(TOP / "build"), metavar="DIR", help="where it was built (build)")
    p.add_argument("--out", metavar="DIR", help="where the JSON, the report and the plots go (BUILD/bench/result)")
    p.add_argument("--docs", action="store_true", help="into docs/: what is committed")
    p.add_argument("--only", default=",".join(PARTS), metavar="LIST", help="parts: " + ",".join(PARTS))
    p.add_argument("--quick", action="store_true", help="less of everything, below two minutes: a look, not a result")
    p.add_argument("--rounds", type=int, metavar="N", help="rounds, each with new processes (5)")
    p.add_argument("--slices", type=int, metavar="N", help="slices of each variant in a round (8)")
    p.add_argument("--slice-ms", type=float, default=2, metavar="MS", help="length of a slice, twice that unpinned (2)")
    p.add_argument("--sizes", metavar="LIST", help="of the paper's tables (128,256,...,32768)")
    p.add_argument("--connections", type=int, metavar="N", help="no more than that (10000)")
    p.add_argument("--cpus", metavar="S,C", help="the CPUs of server and client (the first two)")
    p.add_argument("--seed", type=int, default=1, metavar="N", help="of the order of slices (1)")
    p.add_argument("--check", action="store_true", help="exit 3 when a goal is missed")
    return p


def options(argv=None):
    p = parser()
    o = p.parse_args(argv)
    o.only = [x for x in o.only.split(",") if x]
    for x in o.only:
        if x not in PARTS:
            p.error("--only %s: use %s" % (x, ", ".join(PARTS)))
    o.rounds = o.rounds or (1 if o.quick else 5)
    o.slices = o.slices or (4 if o.quick else 8)
    o.connections = o.connections or (100 if o.quick else 10000)
    try:
        o.sizes = [int(x) for x in o.sizes.split(",")] if o.sizes else [128, 4096, 32768] if o.quick else list(SIZES)
        o.cpus = [int(x) for x in o.cpus.split(",")] if o.cpus else (sorted(os.sched_getaffinity(0)) * 2)[:2]
    except ValueError:
        p.error("--sizes and --cpus want numbers with commas between them")
    if not all(1 <= s <= 1 << 20 for s in o.sizes) or len(o.cpus) != 2:
        p.error("--sizes: 1 to 1048576; --cpus: two of them")
    if o.rounds < 1 or o.slices < 2 or o.slice_ms <= 0 or o.connections < 1:
        p.error("--rounds, --slices (two at least), --slice-ms and --connections must be positive")
    o.build = os.path.abspath(o.build)
    for name, file in (("plain", "roam-bench-node"), ("roam", "roam-bench-node-roam"), ("ring", "roam-bench-ring"),
                       ("relinked", "roam-bench-ring-relinked"), ("mpi", "roam-bench-ring-mpi")):
        setattr(o, name, os.path.join(o.build, "bench", file))
        if name != "mpi" and not os.access(getattr(o, name), os.X_OK):
            p.error("%s: no such program; build first (ninja -C %s), or say --build" % (file, os.path.relpath(o.build)))
    o.out = str(TOP / "docs") if o.docs else os.path.abspath(o.out or os.path.join(o.build, "bench", "result"))
    return o


def said(*argv):
    """The first line that a program prints; "" when there is none."""
    try:
        done = subprocess.run(argv, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout else ""


def field_of(path, name):
    try:
        with open(path) as f:
            return next((line.split(":", 1)[1].strip() for line in f if line.startswith(name)), "")
    except OSError:
        return ""


def machine(o, tmp):
    node = Node([o.plain], dict(os.environ), os.path.join(tmp, "version"))
    try:
        compiler = " ".join(node.ask("version"))
    finally:
        node.end()
    try:
        with open(os.path.join(o.build, "meson-info", "intro-buildoptions.json")) as f:
            built = {x["name"]: x["value"] for x in json.load(f)}
    except (OSError, ValueError):
        built = {}
    git = ("git", "-C", str(TOP))
    dirty = said(*git, "status", "--porcelain", "--untracked-files=no")
    memory = field_of("/proc/meminfo", "MemTotal").split()
    return {
        "cpu": field_of("/proc/cpuinfo", "model name") or platform.machine(), "cpus": os.cpu_count(),
        "hypervisor": "hypervisor" in field_of("/proc/cpuinfo", "flags"),
        "memory_mb": int(memory[0]) // 1024 if memory else 0, "kernel": platform.release(),
        "compiler": compiler, "buildtype": built.get("buildtype", ""), "sanitize": built.get("b_sanitize", "none"),
        "libc": " ".join(platform.libc_ver()), "mpi": said("mpirun", "--version") if os.access(o.mpi, os.X_OK) else "",
        "roam": said(*git, "rev-parse", "--short=10", "HEAD") + (" and changes" if dirty else ""),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "load": [round(x, 2) for x in os.getloadavg()]}


def measure(o):
    with places.Field(o.build) as field:
        bench = engine.Bench(o, field)
        try:
            about = machine(o, bench.tmp)
            bench.say("%(cpu)s, %(cpus)d CPUs, Linux %(kernel)s, %(compiler)s" % about)
            took, ended = {}, []
            for name in o.only:
                t0 = time.monotonic()
                try:
                    load_part(name).run(bench)
                except Refuse:
                    raise
                except (BenchError, places.harness.Fail, places.harness.Skip, OSError) as e:
                    bench.say("%s ended early: %s" % (name, e))     # the other parts are worth having
                    ended.append("%s: %s" % (name, e))
                took[name] = round(time.monotonic() - t0, 1)
            about["load_after"] = [round(x, 2) for x in os.getloadavg()]
            plan = [want for name in o.only for want in load_part(name).plan(o)]
            lost = ended + engine.missing(plan, bench.cells, bench.skips)
            return {
                "format": FORMAT, "machine": about,
                "options": {k: getattr(o, k) for k in ("only", "quick", "rounds", "slices", "slice_ms", "sizes",
                                                       "connections", "cpus", "seed")},
                "took_s": took, "upgraded": bench.upgrades, "skipped": bench.skips, "cells": bench.records()}, lost
        finally:
            shutil.rmtree(bench.tmp, ignore_errors=True)


def dump(result, path):
    """JSON with a cell a line: it is committed, and people look at what changed."""
    cells = ",\n".join("  " + json.dumps(c) for c in result["cells"])
    head = json.dumps({k: v for k, v in result.items() if k != "cells"}, indent=1)
    with open(path, "w") as f:
        f.write(head[:-2] + ',\n "cells": [\n' + cells + "\n ]\n}\n")


def main():
    o = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))     # so that "finally" stops the children
    why = places.private_network()
    if why:
        print("run.py: on the host's own loopback: %s" % why, file=sys.stderr)
    try:
        result, lost = measure(o)
    except Refuse as e:
        print("run.py: refused: %s" % e, file=sys.stderr)
        return 2
    except (BenchError, places.harness.Fail) as e:
        print("run.py: %s" % e, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    os.makedirs(o.out, exist_ok=True)
    dump(result, os.path.join(o.out, "benchmarks.json"))
    for line in lost:
        print("run.py: lost: %s" % line, file=sys.stderr)
    try:
        print(report.write(result, o.out))
    except report.Hole as e:
        lost.append("no report: %s" % e)
        print("run.py: %s" % lost[-1], file=sys.stderr)
    if lost:
        return 1
    if o.check and any(g["verdict"] == "MISSED" for g in report.goals(result)):
        print("run.py: goals missed, see MISSED in the report", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
