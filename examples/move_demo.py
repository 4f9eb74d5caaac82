#!/usr/bin/env python3
"""A server moves from host to host, a cable is pulled: what did the streams do?

Three hosts A, B, C (network namespaces) with a router between them, an agent
on each. A client on A and a server on B send to each other. Everything runs in
network namespaces of its own, so nothing else is touched.
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
import harness  # noqa: E402
import walkers  # noqa: E402
from hosts_demo import on_stage, say  # noqa: E402
from lab import Lab  # noqa: E402

RATE = 8_000_000        # bytes a second in each direction
ROWS = 8                # of the picture
BIN_MS = 100


class Story:
    """What happened when, for the words and for the picture."""

    def __init__(self):
        self.began = time.monotonic_ns()
        self.marks = []         # (ns, letter, words)

    def mark(self, words):
        now = time.monotonic_ns()
        letter = chr(ord("a") + len(self.marks))
        self.marks.append((now, letter, words))
        say(f"  {(now - self.began) / 1e9:5.1f} s  ({letter}) {words}")
        return now


def blocks():
    """Eighths of a character, or whole ones where the terminal has no more."""
    try:
        "█▁".encode(sys.stdout.encoding or "ascii")
        return " ▁▂▃▄▅▆▇█"
    except UnicodeEncodeError:
        return " #"


def rates(samples, begin, end):
    """Bytes received in each interval, from the walker's samples."""
    def total(t):
        at = bisect.bisect_right(samples, (t, 1 << 62, 0)) - 1
        return samples[at][1] if at >= 0 else 0
    edges = range(begin, end, BIN_MS * 1_000_000)
    totals = [total(t) for t in edges]
    return [b - a for a, b in zip(totals, totals[1:])]


def picture(samples, story, end):
    ink = blocks()
    steps = len(ink) - 1
    values = rates(samples, story.began, end)
    top = max(values) or 1
    scale = top * 1000 / BIN_MS / 1e6
    for row in range(ROWS, 0, -1):
        line = ""
        for v in values:
            level = v / top * ROWS - (row - 1)
            line += ink[max(0, min(steps, round(level * steps)))]
        label = f"{scale * row / ROWS:5.1f}" if row in (ROWS, ROWS // 2) else "     "
        say(f"    {label} |{line.rstrip()}")
    say("      0.0 +" + "".join("|" if i % (1000 // BIN_MS) == 0 else "-"
                                for i in range(len(values))))
    letters = [" "] * (len(values) + 4)
    for t, letter, _ in story.marks:
        at = int((t - story.began) / 1e6 / BIN_MS)
        while at < len(letters) - 1 and letters[at] != " ":
            at += 1
        if at < len(letters):
            letters[at] = letter
    say("           " + "".join(letters).rstrip())
    say(f"           megabytes a second at the client; {BIN_MS} ms a column, | is a second")


def until_second(walker, story, second):
    """The streams run on to that second of the story."""
    harness.wait_for(lambda: walker.received() >= 0 and
                     time.monotonic_ns() - story.began >= second * 1e9, 60, "the time")
    if not walker.proc.alive():
        raise harness.Fail("the client has ended")


def play(case, lab):
    say("  hosts A, B, C, a router between them, an agent (roamd) on each")
    agents.start_agents(lab)
    s = walkers.server(lab, lab.B, rate=RATE)
    c = walkers.client(lab, lab.A, s, rate=RATE)
    c.wait_upgraded()
    s.wait_upgraded()
    story = Story()
    repairs = []
    a, b, new = lab.A, lab.B, lab.C
    until_second(c, story, 1)
    story.mark("the cable of A is pulled")
    lab.R.pull(a)
    until_second(c, story, 1.8)
    repairs.append(story.mark("... and plugged in again"))
    lab.R.plug(a)
    until_second(c, story, 3)
    story.mark("the server is frozen on B")
    s.freeze()
    s.walk(new)
    repairs.append(story.mark("... and wakes up on C"))
    s.thaw()
    until_second(c, story, 4.5)
    story.mark("host B is switched off")
    b.agent.stop()
    lab.R.pull(b)
    until_second(c, story, 5.5)
    repairs.append(story.mark("the sockets of C are destroyed (ss -K)"))
    new.kill_sockets()
    until_second(c, story, 7)
    end = time.monotonic_ns()
    walkers.verdict(case, c, s)
    say()
    picture(c.samples, story, end)
    say()
    report(c, s, repairs)


def report(c, s, repairs):
    mine, other = (next(iter(w.results().values())) for w in (c, s))
    for who, r in (("client", mine), ("server", other)):
        say(f"    {who} sent {r['sent']} bytes, digest {r['sent_digest']}; "
            f"received {r['received']}, digest {r['received_digest']}")
    say("    every byte was checked by its receiver; the digests are equal")
    ms = walkers.stalls((c,), repairs, 20)
    if ms:
        say("    the next byte came after " +
            ", ".join(f"{x:.0f} ms" for x in ms) + " (counted from the repair)")


def main():
    def perform(case):
        with Lab(case, "ABC") as lab:
            play(case, lab)
        say("\nAs it should be: the two programs noticed nothing of all this.")
    return on_stage("A server moves while bytes flow", __doc__, TOP / "build", perform)


if __name__ == "__main__":
    sys.exit(main())
