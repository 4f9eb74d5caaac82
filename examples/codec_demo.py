#!/usr/bin/env python3
"""A link becomes slow, and fast again: what gets through, with and without roam?

Two hosts (network namespaces) with a router between them, an agent on each. A
client sends something like text as fast as it can; the link carries 1 Gbit/s,
then 10 Mbit/s, then 1 Gbit/s again. Once with plain sockets, once re-linked.
Exit status: 0 all is as it should be, 1 it is not, 77 not possible here.
"""
import bisect
import pathlib
import sys
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(TOP / "tests" / d) for d in ("net", "support", "meta")]

import agents  # noqa: E402
import walkers  # noqa: E402
from cases_codec import TEXT  # noqa: E402
from hosts_demo import on_stage, say  # noqa: E402
from lab import Lab  # noqa: E402

PLAN = ((1.5, 1000, "1 Gbit/s"), (5.0, 10, "10 Mbit/s"), (4.0, 1000, "1 Gbit/s again"))
BIN_MS = 150
DECADES = (1, 10, 100, 1000)


def run(case, lab, roam):
    """Goodput in Mbit/s per interval, and what the sender's library said."""
    lab.R.shape(lab.B, PLAN[0][1])
    s = walkers.server(lab, lab.B, rate=20_000, roam=roam)
    c = walkers.client(lab, lab.A, s, seed=TEXT, roam=roam)
    c.proc.expect(r"^connected \d+", 10)
    if roam:
        c.wait_upgraded()
    began = time.monotonic_ns()
    for seconds, mbit, _ in PLAN:
        lab.R.shape(lab.B, mbit)
        time.sleep(seconds)
    end = time.monotonic_ns()
    walkers.verdict(case, c, s, 30)
    s.received()

    def total(t):
        at = bisect.bisect_right(s.samples, (t, 1 << 62, 0)) - 1
        return s.samples[at][1] if at >= 0 else 0
    edges = [total(t) for t in range(began, end, BIN_MS * 1_000_000)]
    return [(b - a) * 8 / 1e3 / BIN_MS for a, b in zip(edges, edges[1:])], \
        [text for _, text in c.proc.events("codec")] if roam else []


def picture(plain, roam):
    """Logarithmic; o without, # with roam, * both."""
    rows = 4
    for row in range(rows * (len(DECADES) - 1), -1, -1):
        low = 10 ** (row / rows)
        high = 10 ** ((row + 1) / rows)
        line = ""
        for i in range(max(len(plain), len(roam))):
            hits = [low <= max(v[i], 1) < high for v in (plain, roam) if i < len(v)]
            line += "*" if all(hits) else "o" if hits[0] else "#" if hits[-1] else " "
        label = f"{round(low):5d}" if row % rows == 0 else "     "
        say(f"    {label} |{line.rstrip()}")
    ticks = round(1000 / BIN_MS)
    say("          +" + "".join("|" if i % ticks == 0 else "-" for i in range(max(len(plain), len(roam)))))
    say("           Mbit/s that the receiving program got; o without roam, # with it, * both; | is about a second")


def mean(values, begin, end):
    part = values[int(begin * 1000 / BIN_MS):int(end * 1000 / BIN_MS)]
    return sum(part) / len(part)


def report(plain, roam, said):
    picture(plain, roam)
    say()
    at = 0.0
    for seconds, _, name in PLAN:
        a, b = mean(plain, at + 1, at + seconds), mean(roam, at + 1, at + seconds)
        say(f"    {name:16} {a:7.1f} Mbit/s without, {b:7.1f} with roam (from its second second on)")
        at += seconds
    say("\n    what the library said:")
    for text in said:
        say("      codec " + text)
    say("\n    every byte was checked by its receiver")


def main():
    def perform(case):
        with Lab(case, "AB") as lab:
            plain, _ = run(case, lab, False)
        with Lab(case, "AB") as lab:
            agents.start_agents(lab)
            roam, said = run(case, lab, True)
        report(plain, roam, said)
    return on_stage("A link becomes slow, and fast again", __doc__, TOP / "build", perform)


if __name__ == "__main__":
    sys.exit(main())
