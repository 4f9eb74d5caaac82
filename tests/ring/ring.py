#!/usr/bin/env python3
"""The ring under real sockets: moves under load, processes, hostile peers.

As tests/e2e: a private network namespace, a private ROAM_DIR, TAP. The group
"modes" is e2e's with ROAM_LINK=ring: each way to wait, while the base link is
broken. The C programs do what needs the library's internals.
"""
import argparse
import functools
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "e2e"), os.path.join(HERE, "..", "support")]
sys.dont_write_bytecode = True

import cases_modes  # noqa: E402
import harness  # noqa: E402
import programs  # noqa: E402

GROUPS = ["modes", "move", "procs", "hostile"]


class RingCase(harness.Case):
    def environ(self, roam_dir=None, **changes):
        return super().environ(roam_dir, **{"ROAM_LINK": "ring", **changes})


def wait_ring(*procs, **how):
    """Breaks begin when the link is a ring; before, they keep it from becoming one."""
    programs.wait_upgraded(*procs, **how)
    for p in procs:
        harness.wait_for(lambda p=p: re.search(r" link=ring$", p.err(), re.M) or not p.alive(),
                         10, f"a ring in {p.label}")


def check_resumed(case, breaks, procs, **_how):
    """A base that nobody sleeps on may be dead for long: what was noticed was mended, and is a ring again."""
    resumed = max(len(p.events("resumed")) for p in procs)
    rings = max(len(re.findall(r" resumed .*link=ring$", p.err(), re.M)) for p in procs)
    case.note(f"{breaks} breaks, {resumed} resumed, {rings} as a ring")
    case.check(rings >= resumed // 2, f"{resumed} resumed, but only {rings} as a ring")


cases_modes.wait_upgraded = wait_ring
cases_modes.check_resumed = check_resumed


def on_ring(case, fn):
    """A case of e2e, in which every connection must have been on a ring."""
    fn(case)
    moved = [p for p in case.procs if re.search(r" link=ring$", p.err(), re.M)]
    up = [p for p in case.procs if p.connections("upgraded")]
    case.check(up and len(moved) == len(up), f"{len(moved)} of {len(up)} processes were on a ring")


def move(case, handovers, connections, seconds):
    p = case.start([case.config.ring_move, "-n", handovers, "-c", connections,
                    "-s", case.seed | 1, "-t", seconds])
    rc = p.wait(seconds + 30)
    m = re.search(r"^handovers (\d+) .*in (\d+) ms", p.out(), re.M)
    ring = len(re.findall(r" moved .*link=ring$", p.err(), re.M))
    case.check(rc == 0 and m, f"ring_move ended with {harness.describe(rc)}")
    odd = len(p.events("broken"))
    case.note(f"{m[1]} handovers in {m[2]} ms, {ring} lines of rings, {odd} breaks")
    case.check(ring, "nothing moved to a ring")


def tap(case, argv, seconds, **env):
    """A C program with TAP of its own: one case here for all of its own."""
    p = case.start(argv, env=case.environ(**env))
    p.wait(seconds)
    out = p.out()
    bad = re.findall(r"^not ok .*\n(?:# .*)?", out, re.M)
    ok = re.findall(r"^ok ", out, re.M)
    case.check(not bad and ok, f"{len(bad)} of {len(bad) + len(ok)}: " + "; ".join(bad))
    case.note(f"{len(ok)} cases")
    return p


def procs(case, what):
    tap(case, [case.config.ring_cases, what], 90)


def hostile(case, ms):
    p = tap(case, [case.config.ring_hostile, "-s", case.seed | 1, "-m", ms], 240)
    lines = len(re.findall(r"ended reason=ring", p.err()))
    case.note(f"{lines} ended reason=ring")
    case.check(lines, "nobody ever noticed")


def cases(args):
    part = functools.partial
    out = []
    if "modes" in args.groups:
        for name, limit, fn in cases_modes.cases(args):
            out.append(("ring: " + name, limit, part(on_ring, fn=fn)))
    if "move" in args.groups:
        out.append((f"{args.handovers} random moves between TCP and the ring", 30 + args.seconds,
                    part(move, handovers=args.handovers, connections=6, seconds=args.seconds)))
        out.append(("one connection", 40, part(move, handovers=200, connections=1, seconds=20)))
    if "procs" in args.groups:
        for what in ("kill -9", "SIGSTOP", "idle", "fork:", "exec", "posix_spawn", "popen", "system",
                     "SCM_RIGHTS", "close", "receiver", "told"):
            out.append((what, 100, part(procs, what=what)))
    if "hostile" in args.groups:
        out.append(("a peer that scribbles", 250, part(hostile, ms=args.scribble_ms)))
    return [c for c in out if args.only in c[0]]


def options():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("groups", nargs="*", metavar="group",
                   help="of " + ", ".join(GROUPS) + " (default: all)")
    p.add_argument("--bin-dir", required=True, help="where the examples are")
    p.add_argument("--ring-dir", required=True, help="where ring_move and the others are")
    p.add_argument("--breaker", required=True)
    p.add_argument("--handovers", type=int, default=1500, help="in all (%(default)s)")
    p.add_argument("--seconds", type=int, default=60, help="at most, for them (%(default)s)")
    p.add_argument("--scribble-ms", type=int, default=40, help="for each hostile case (%(default)s)")
    args = harness.parse_run(p, GROUPS)
    args.groups = args.groups or GROUPS
    return args


def main():
    args = options()
    todo = cases(args)
    if args.list:
        print("\n".join(name for name, _, _ in todo))
        return 0
    no_netns = harness.enter_netns()
    config = harness.Config(args.breaker, args.seed, args.keep, no_netns)
    config.bin_dir = args.bin_dir
    for name in ("ring_move", "ring_cases", "ring_hostile"):
        setattr(config, name, os.path.join(args.ring_dir, name))
    harness.Case = RingCase
    print(f"# seed {args.seed}" + (f"; no namespace: {no_netns}" if no_netns else ""))
    return harness.run_cases(todo, config)


if __name__ == "__main__":
    sys.exit(main())
