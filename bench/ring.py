#!/usr/bin/env python3
"""
The ring against what bounds it, the kernel's sockets and OpenMPI.

Every way is a pair of processes; all pairs are alive at once and take turns in
short slices, in random order, so that the drift of a shared machine is in all
of them alike. What counts is a ratio: the median over rounds of the ratio of
slices that ran next to each other. See bench/README.md.
"""

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import stats                                    # noqa: E402

SIZES = [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 131072, 1048576]
STREAM = [8, 64, 1024, 4096, 32768, 131072, 1048576]
MPI = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", "2"]
MPI_WAYS = {
    "mpi-shm": MPI + ["--mca", "btl", "self,vader"],
    "mpi-shm2": MPI + ["--mca", "btl", "self,vader", "--mca", "btl_vader_single_copy_mechanism", "none"],
    "mpi-tcp": MPI + ["--mca", "pml", "ob1", "--mca", "btl", "self,tcp", "--mca", "btl_tcp_if_include", "lo"],
}
# The sockets of "tcp" and "tcp-spin", re-linked.
RELINKED = {
    "sock-ring": ("tcp", {"ROAM_LINK": "ring"}),
    "sock-ring-poll": ("tcp-spin", {"ROAM_LINK": "ring"}),
    "sock-ring-sleep": ("tcp", {"ROAM_LINK": "ring", "ROAM_SPIN": "off"}),
    "sock-tcp": ("tcp", {"ROAM_LINK": "tcp"}),
}
ALL = ["bare", "futex", "spsc", "ring-busy", "ring", "ring-sleep", "unix", "unix-spin", "tcp", "tcp-spin", *RELINKED, *MPI_WAYS]


class Pair:
    def __init__(self, name, cmd, settings):
        self.name = name
        # of its own: two mpiruns that start at once get in each other's way
        self.tmp = tempfile.mkdtemp(prefix="roam-bench-")
        env = dict(os.environ, OMPI_MCA_orte_tmpdir_base=self.tmp, ROAM_DIR=self.tmp, **settings)
        self.proc = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                     bufsize=1, env=env)

    def ask(self, line):
        self.proc.stdin.write(line + "\n")
        self.proc.stdin.flush()
        words = self.proc.stdout.readline().split()
        if not words or words[0] != "ok":
            raise SystemExit("%s, told \"%s\": %s" % (self.name, line, " ".join(words) or "ended"))
        return int(words[1]), int(words[2])

    def end(self):
        try:
            self.proc.stdin.close()
        except OSError:
            pass
        try:
            self.proc.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
        shutil.rmtree(self.tmp, ignore_errors=True)


def options():
    p = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    here = os.path.dirname(os.path.abspath(__file__))
    build = os.path.join(os.path.dirname(here), "build", "bench")
    p.add_argument("--node", default=os.path.join(build, "roam-bench-ring"), metavar="FILE")
    p.add_argument("--relinked", default=os.path.join(build, "roam-bench-ring-relinked"), metavar="FILE")
    p.add_argument("--mpi-node", default=os.path.join(build, "roam-bench-ring-mpi"), metavar="FILE")
    p.add_argument("--ways", default=",".join(ALL), metavar="LIST", help=",".join(ALL))
    p.add_argument("--sizes", default=",".join(map(str, SIZES)), metavar="LIST", help="of round trips")
    p.add_argument("--stream", default=",".join(map(str, STREAM)), metavar="LIST", help="of streams")
    p.add_argument("--rounds", type=int, default=3, metavar="N", help="each with new processes (3)")
    p.add_argument("--slices", type=int, default=8, metavar="N", help="of each cell in a round (8)")
    p.add_argument("--slice-ms", type=float, default=3, metavar="MS")
    p.add_argument("--cpus", default="0,1", metavar="C,S", help="-1,-1: unpinned")
    p.add_argument("--ring-size", type=int, default=0, metavar="BYTES", help="0: the default")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--json", metavar="FILE")
    o = p.parse_args()
    o.ways = [w for w in o.ways.split(",") if w]
    o.sizes = [int(x) for x in o.sizes.split(",") if x]
    o.stream = [int(x) for x in o.stream.split(",") if x]
    if any(w in MPI_WAYS for w in o.ways) and not (shutil.which("mpirun") and os.access(o.mpi_node, os.X_OK)):
        print("no OpenMPI (apt-get install openmpi-bin libopenmpi-dev, then build): left out", file=sys.stderr)
        o.ways = [w for w in o.ways if w not in MPI_WAYS]
    return o


def command(o, way):
    if way in MPI_WAYS:
        return [*MPI_WAYS[way], o.mpi_node]
    if way in RELINKED:
        return [o.relinked, RELINKED[way][0]]
    return [o.node, way] + ([str(o.ring_size)] if o.ring_size and way.startswith("ring") else [])


def measure(o):
    """(kind, size) -> way -> rounds of slices, ns a unit."""
    rng = random.Random(o.seed)
    cells, idle = {}, []
    cpus = o.cpus.replace(",", " ")
    for _ in range(o.rounds):
        pairs = [Pair(w, command(o, w), RELINKED.get(w, ("", {}))[1]) for w in o.ways]
        try:
            for p in pairs:
                p.ask("pin " + cpus)
                for _ in range(3):
                    p.ask("pp 8 2000")
            todo = [("pp", s) for s in o.sizes] + [("stream", s) for s in o.stream]
            for kind, size in todo:
                able = [p for p in pairs if p.name not in ("bare", "futex") or (kind == "pp" and size == 8)]
                # A small ring beside spinning MPI ranks takes a time slice for each quarter of a large message.
                able = [p for p in able if p.name not in RELINKED or size <= 32768]
                got = {p.name: [] for p in able}
                for _ in range(o.slices):
                    for p in rng.sample(able, len(able)):
                        us = int(o.slice_ms * 1000)
                        n, ns = p.ask("%s %d %d" % (kind, size, us))
                        got[p.name].append(ns / n)
                for name, v in got.items():
                    cells.setdefault((kind, size), {}).setdefault(name, []).append(v)
            for p in pairs:
                if p.name == "ring":
                    idle.append(p.ask("idle 1000"))
        finally:
            for p in pairs:
                p.end()
    return cells, idle


def ratio(cell, a, b):
    if a not in cell or b not in cell:
        return None
    return stats.spread([statistics.median(x / y for x, y in zip(ra, rb)) for ra, rb in zip(cell[a], cell[b])])


def typical(cell, way):
    return statistics.median(statistics.median(v) for v in cell[way])


def tables(o, cells):
    for kind in ("pp", "stream"):
        sizes = [s for k, s in cells if k == kind]
        if not sizes:
            continue
        print("\n%s" % ("round trip, us" if kind == "pp" else "stream, GB/s (8 B: M messages/s)"))
        print("%-10s" % "size" + "".join("%9s" % s for s in sizes))
        for way in o.ways:
            row = "%-10s" % way
            for s in sizes:
                if way not in cells[kind, s]:
                    row += "%9s" % "-"
                    continue
                ns = typical(cells[kind, s], way)
                row += "%9.3f" % (ns / 1000 if kind == "pp" else 1000 / ns if s == 8 else s / ns)
            print(row)


def goals(o, cells):
    """What part 3 promises: (name, ratio, limit, is an upper limit)."""
    out = []
    for ours in ("ring-busy", "ring", "sock-ring", "sock-ring-poll"):
        for mpi in ("mpi-shm", "mpi-shm2"):
            for (kind, size), cell in cells.items():
                r = ratio(cell, ours, mpi)
                if r and kind == "pp" and size <= 32768:
                    out.append(("round trip %s/%s %d B" % (ours, mpi, size), r, 0.5 if size >= 4096 else 1.0, True))
                if r and kind == "stream" and size == 32768:
                    inverse = stats.spread([1 / x for x in r["rounds"]])
                    out.append(("bandwidth %s/%s 32 KiB" % (ours, mpi), inverse, 1.5, False))
        cell = cells.get(("stream", 8), {})
        r = ratio(cell, "spsc", ours)
        if r:
            out.append(("8 B messages/s %s/spsc" % ours, r, 0.7, False))
            rate = [1000 / statistics.median(v) for v in cell[ours]]
            out.append(("8 B messages/s %s, million" % ours, stats.spread(rate), 20, False))
    for (kind, size), cell in cells.items():
        for ours in ("ring-sleep", "sock-ring-sleep"):
            r = ratio(cell, ours, "tcp")
            if r and kind == "pp" and size <= 32768:
                out.append(("round trip asleep %s/TCP %d B" % (ours, size), r, 0.8, True))
    return out


def main():
    o = options()
    t0 = time.time()
    cells, idle = measure(o)
    tables(o, cells)
    print("\n%-44s %8s %8s %8s  goal" % ("ratio", "median", "q1", "q3"))
    report = []
    for name, r, limit, upper in goals(o, cells):
        def met(x):
            return x <= limit if upper else x >= limit
        verdict = "met" if met(r["median"]) else "unsure" if met(r["q1"] if upper else r["q3"]) else "MISSED"
        print("%-44s %8.3f %8.3f %8.3f  %s %.2f %s" % (name, r["median"], r["q1"], r["q3"], "<=" if upper else ">=",
                                                      limit, verdict))
        report.append({"name": name, "ratio": r, "limit": limit, "upper": upper, "verdict": verdict})
    for cpu, ns in idle:
        print("idle, ring: %.1f us of CPU in %.2f s" % (cpu / 1000, ns / 1e9))
    print("%d rounds of %d slices of %g ms, cpus %s, %.0f s, load %.1f" % (
        o.rounds, o.slices, o.slice_ms, o.cpus, time.time() - t0, os.getloadavg()[0]))
    if o.json:
        with open(o.json, "w") as f:
            json.dump({"options": vars(o), "machine": platform.platform(), "cpus": os.cpu_count(),
                       "goals": report, "idle": idle,
                       "cells": [{"kind": k, "size": s, "ns": c} for (k, s), c in cells.items()]}, f, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
