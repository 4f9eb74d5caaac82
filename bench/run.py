#!/usr/bin/env python3
"""
Raw TCP against re-linked programs: round trip, bandwidth, connections, file calls.

All variants are alive at the same time, and short slices of them alternate in
random order, so that the drift of a shared machine is in all of them alike.
See bench/README.md.
"""

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import stats                                    # noqa: E402
from pairs import BenchError, Node, Pair        # noqa: E402

SIZES = [128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768]
SUITES = ["pingpong", "stream", "conn", "fdcall"]
CONN_NAME = {0: "open+close", 64: "64 B echo"}

# What part 1 promises, for persistent against raw: (limit, is an upper limit).
GOALS = {"pingpong": (1.02, True), "stream": (0.95, False), "conn": (0.97, False),
         "fdcall": (3.0, True)}


class Refuse(Exception):
    """The numbers would not mean what they say."""


def options():
    p = argparse.ArgumentParser(
        description="Compare raw TCP with re-linked programs; see bench/README.md.",
        epilog="Exit: 0 measured; 1 something failed; 2 refused, because the persistent "
               "pair was not upgraded or the plain-peer pair was; 3 with --check, a goal missed.")
    here = os.path.dirname(os.path.abspath(__file__))
    build = os.path.join(os.path.dirname(here), "build", "bench")
    p.add_argument("--plain", default=os.path.join(build, "roam-bench-node"), metavar="FILE",
                   help="the node program, plain (build/bench/roam-bench-node)")
    p.add_argument("--roam", default=os.path.join(build, "roam-bench-node-roam"),
                   metavar="FILE", help="the same, re-linked (build/bench/roam-bench-node-roam)")
    p.add_argument("--raw-only", action="store_true",
                   help="only raw against raw: the noise floor of this machine")
    p.add_argument("--quick", action="store_true",
                   help="3 rounds, 3 sizes, fewer slices: a look, not a result")
    p.add_argument("--rounds", type=int, metavar="N", help="rounds, each with new processes (11)")
    p.add_argument("--slices", type=int, metavar="N",
                   help="slices of each variant in a round (30)")
    p.add_argument("--slice-ms", type=float, default=2, metavar="MS",
                   help="length of a slice, twice that unpinned (2)")
    p.add_argument("--only", default=",".join(SUITES), metavar="LIST",
                   help="suites: " + ",".join(SUITES))
    p.add_argument("--sizes", metavar="LIST", help="bytes (128,256,...,32768)")
    p.add_argument("--wait", default="blocking,spin", metavar="LIST",
                   help="how both ends wait: blocking, spin (blocking,spin)")
    p.add_argument("--pin", default="pinned,unpinned", metavar="LIST",
                   help="placement: pinned (a CPU for each end), unpinned (both)")
    p.add_argument("--cpus", metavar="S,C", help="the CPUs of server and client (the first two)")
    p.add_argument("--nagle", action="store_true", help="leave Nagle's algorithm on")
    p.add_argument("--bufs", type=int, metavar="BYTES",
                   help="SO_SNDBUF and SO_RCVBUF (the kernel tunes them)")
    p.add_argument("--seed", type=int, default=1, metavar="N", help="of the order of slices (1)")
    p.add_argument("--json", metavar="FILE", help="write everything measured to FILE")
    p.add_argument("--check", action="store_true", help="exit 3 when a goal of part 1 is missed")
    o = p.parse_args()

    def choice(name, allowed):
        got = getattr(o, name).split(",")
        for x in got:
            if x not in allowed:
                p.error("--%s %s: use %s" % (name, x, ", ".join(allowed)))
        setattr(o, name, got)
    choice("only", SUITES)
    choice("wait", ["blocking", "spin"])
    choice("pin", ["pinned", "unpinned"])
    o.rounds = o.rounds or (3 if o.quick else 11)
    o.slices = o.slices or (20 if o.quick else 30)
    try:
        o.sizes = [int(x) for x in o.sizes.split(",")] if o.sizes else \
            [128, 4096, 32768] if o.quick else SIZES
        o.cpus = [int(x) for x in o.cpus.split(",")] if o.cpus else \
            (sorted(os.sched_getaffinity(0)) * 2)[:2]
    except ValueError:
        p.error("--sizes and --cpus want numbers with commas between them")
    if not all(1 <= s <= 1 << 20 for s in o.sizes) or len(o.cpus) != 2:
        p.error("--sizes: 1 to 1048576; --cpus: two of them")
    if o.rounds < 1 or o.slices < 1 or o.slice_ms <= 0:
        p.error("--rounds, --slices and --slice-ms must be positive")
    for f in [o.plain] + ([] if o.raw_only else [o.roam]):
        if not os.access(f, os.X_OK):
            p.error("%s: no such program; build first (ninja -C build), or say where it is "
                    "with --plain and --roam" % f)
    return o


class Bench:
    def __init__(self, o):
        self.o = o
        self.tmp = tempfile.mkdtemp(prefix="roam-bench-")
        self.random = random.Random(o.seed)
        self.cells = {}         # (suite, pin, wait, size) -> variant -> rounds of slices
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("ROAM")}
        # A rendezvous directory of our own: no other program is met by accident.
        self.roam_env = dict(self.env, ROAM_LINK="tcp", ROAM_LOG="info",
                             ROAM_DIR=os.path.join(self.tmp, "d"))
        os.mkdir(self.roam_env["ROAM_DIR"], 0o700)
        plain, roam = o.plain, o.roam
        self.variants = [("raw", plain, plain, self.env), ("null", plain, plain, self.env)]
        if not o.raw_only:
            self.variants += [("plainpeer", plain, roam, self.roam_env),
                              ("persistent", roam, roam, self.roam_env)]
        self.flags = (["-N"] if o.nagle else []) + (["-B", str(o.bufs)] if o.bufs else [])
        self.upgrades = 0

    def start(self, pin, suite):
        pairs = []
        try:
            for name, server, client, env in self.variants:
                pair = Pair(name, server, client, env, self.tmp, self.flags)
                pairs.append(pair)
                pair.pin(self.o.cpus if pin == "pinned" else (-1, -1))
                pair.aim() if suite == "conn" else pair.connect()
            for pair in pairs:
                pair.warm(suite)
            if suite != "conn":         # short connections are not worth an upgrade
                self.check_upgraded(pairs)
        except BaseException:
            self.end(pairs)
            raise
        return pairs

    def check_upgraded(self, pairs):
        for pair in pairs:
            n = pair.upgraded()
            if pair.name == "persistent":
                if not n:
                    raise Refuse(
                        "the persistent pair was not upgraded: no line with \" upgraded \" on "
                        "the stderr of either process after %d exchanges with ROAM_LOG=info. "
                        "What it would measure is plain TCP. Is %s re-linked (nm %s | grep "
                        "__wrap_)?" % (Pair.WARM_UNITS, self.o.roam, self.o.roam))
                self.upgrades += n
            elif n:
                raise Refuse("the %s pair says it was upgraded, though its server is plain: "
                             "is %s really the plain program?" % (pair.name, self.o.plain))

    @staticmethod
    def end(pairs):
        for pair in pairs:
            pair.end()

    def interleave(self, pairs, key, measure):
        """The slices of one cell in one round."""
        got = {pair.name: [] for pair in pairs}
        for _ in range(self.o.slices):
            for pair in self.random.sample(pairs, len(pairs)):
                got[pair.name].append(measure(pair))
        for name, values in got.items():
            self.cells.setdefault(key, {}).setdefault(name, []).append(values)

    def run_suite(self, suite, pin):
        o = self.o
        pinned = pin == "pinned"
        # A scheduler that may choose needs time to do so.
        run_us = int(o.slice_ms * (1000 if pinned else 2000))
        warm_us = run_us // (10 if pinned else 4)

        def timed(size, spin):
            def measure(pair):
                if not pinned and not spin:     # two that spin leave each other anyway
                    pair.scatter(o.cpus[0])
                units, ns = pair.slice(suite, size, spin, warm_us, run_us)
                return ns / units
            return measure

        pairs = self.start(pin, suite)
        try:
            if suite == "fdcall":
                for kind in ("read", "write"):
                    self.interleave(pairs, (suite, pin, "-", kind),
                                    lambda pair: pair.fdcall(kind, 20, 500))
            elif suite == "conn":
                for size in (0, 64):
                    self.interleave(pairs, (suite, pin, "blocking", size), timed(size, 0))
            else:
                for size in o.sizes:
                    for wait in o.wait:
                        self.interleave(pairs, (suite, pin, wait, size),
                                        timed(size, int(wait == "spin")))
        finally:
            self.end(pairs)

    def precheck(self):
        if not self.o.raw_only:
            self.end(self.start("unpinned", "pingpong"))

    def run(self):
        t0 = time.monotonic()
        self.precheck()
        for r in range(self.o.rounds):
            for suite in self.o.only:
                for pin in self.o.pin:
                    # A file call knows no placement: measured pinned, or as it comes.
                    if suite == "fdcall" and pin != self.o.pin[0]:
                        continue
                    self.run_suite(suite, pin)
            print("round %d of %d, %.0f s" % (r + 1, self.o.rounds, time.monotonic() - t0),
                  file=sys.stderr)

    def results(self):
        out = []
        for (suite, pin, wait, size), cell in self.cells.items():
            res = {"suite": suite, "pin": pin, "wait": wait, "size": size,
                   "unit": UNIT[suite], "variants": {}, "against_raw": {}}
            for name, rounds in cell.items():
                res["variants"][name] = stats.spread(
                    [show(suite, min(values) if suite == "fdcall" else
                          stats.typical(pin, values)) for values in rounds])
                if name == "raw":
                    continue
                got = stats.spread([compare(suite, pin, values, raw)
                                    for values, raw in zip(rounds, cell["raw"])])
                if suite == "fdcall":   # a process keeps its luck, so the luckiest of each
                    got["median"] = min(map(min, rounds)) - min(map(min, cell["raw"]))
                res["against_raw"][name] = got
            out.append(res)
        order = {p: i for i, p in enumerate(self.o.pin + self.o.wait)}
        out.sort(key=lambda r: (SUITES.index(r["suite"]), order[r["pin"]],
                                order.get(r["wait"], 0)))
        return out


UNIT = {"pingpong": "us round trip", "stream": "MB/s", "conn": "connections/s",
        "fdcall": "ns a call"}


def show(suite, ns):
    """ns for a unit, as people read it."""
    return {"pingpong": ns / 1e3, "stream": 1e3 / ns, "conn": 1e9 / ns, "fdcall": ns}[suite]


def compare(suite, pin, ours, raw):
    """Ratio of times (pingpong) or of rates (stream, conn); ns more (fdcall)."""
    if suite == "fdcall":
        return min(ours) - min(raw)
    if suite == "pingpong":
        return stats.ratio(pin, ours, raw)
    return 1 / stats.ratio(pin, ours, raw)


def verdict(res):
    """MISSED: also the better quartile misses the goal; unsure: only the median does."""
    limit, upper = GOALS[res["suite"]]
    got = res["against_raw"].get("persistent")
    if not got:
        return ""
    sign = 1 if upper else -1
    if sign * got["median"] <= sign * limit:
        return ""
    return "MISSED" if sign * got["q1" if upper else "q3"] > sign * limit else "unsure"


def number(x):
    return "%.0f" % x if x >= 1000 else "%.1f" % x if x >= 100 else "%.2f" % x


def table(results):
    head = None
    for res in results:
        title = (res["suite"], res["pin"], res["wait"])
        names = list(res["variants"])
        diff = res["suite"] == "fdcall"
        if title != head:
            head = title
            limit, upper = GOALS[res["suite"]]
            print("\n%s, %s%s: %s, median [quartiles] of rounds; against raw: %s; goal %s %g"
                  % (res["suite"], res["pin"], "" if res["wait"] == "-" else ", " + res["wait"],
                     res["unit"], "ns more, the fastest of all rounds" if diff else
                     "time ratio" if res["suite"] == "pingpong" else "rate ratio",
                     "<=" if upper else ">=", limit))
            print("%10s" % "" + "".join("%24s" % n for n in names)
                  + "".join("%28s" % (n + "/raw" if not diff else n + "-raw")
                            for n in names if n != "raw"))
        size = res["size"]
        line = "%10s" % (CONN_NAME.get(size, size) if res["suite"] == "conn" else size)
        for n in names:
            v = res["variants"][n]
            line += "%24s" % ("%s [%s %s]" % (number(v["median"]), number(v["q1"]),
                                              number(v["q3"])))
        for n in names:
            if n == "raw":
                continue
            v = res["against_raw"][n]
            form = "%+.2f [%+.2f %+.2f]" if diff else "%.4f [%.4f %.4f]"
            line += "%28s" % (form % (v["median"], v["q1"], v["q3"]))
        print(line + ("  " + verdict(res)).rstrip())


def noise_floor(results, pins):
    """How far raw is from raw: what is smaller than this means nothing."""
    for suite in SUITES:
        for pin in pins:
            dev = [abs(r["against_raw"]["null"]["median"] - (0 if suite == "fdcall" else 1))
                   for r in results if r["suite"] == suite and r["pin"] == pin]
            if not dev:
                continue
            form = "%.2f ns median, %.2f ns worst" if suite == "fdcall" else \
                "%.2f %% median, %.2f %% worst"
            scale = 1 if suite == "fdcall" else 100
            yield "%s, %s" % (suite, pin), (form % (scale * statistics.median(dev), scale * max(dev)))


def machine(o, tmp):
    model = platform.processor()
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    node = Node(o.plain, dict(os.environ), os.path.join(tmp, "version"))
    try:
        compiler = " ".join(node.ask("version"))
    finally:
        node.end()
    return {"kernel": platform.release(), "machine": platform.machine(), "cpu": model,
            "cpus": os.cpu_count(), "compiler": compiler, "python": platform.python_version(),
            "load": os.getloadavg(), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def main():
    o = options()
    bench = Bench(o)
    try:
        about = machine(o, bench.tmp)
        print("%s, %d CPUs, Linux %s, compiler %s, load %.2f" % (
            about["cpu"], about["cpus"], about["kernel"], about["compiler"], about["load"][0]))
        bench.run()
        results = bench.results()
    except Refuse as e:
        print("run.py: refused: %s" % e, file=sys.stderr)
        return 2
    except BenchError as e:
        print("run.py: %s" % e, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(bench.tmp, ignore_errors=True)
    table(results)
    print("\nnoise floor (raw against raw, |null - raw|):")
    floor = dict(noise_floor(results, o.pin))
    for suite, text in floor.items():
        print("  %-20s %s" % (suite, text))
    if not o.raw_only:
        print("lines that say \" upgraded \" in the persistent pairs: %d" % bench.upgrades)
    if o.json:
        with open(o.json, "w") as f:
            json.dump({"machine": about, "options": vars(o), "upgraded_lines": bench.upgrades,
                       "noise_floor": floor, "results": results}, f, indent=1)
            f.write("\n")
    if o.check and any(verdict(r) == "MISSED" for r in results):
        print("run.py: goals missed, see MISSED above", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
