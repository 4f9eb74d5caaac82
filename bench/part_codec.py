"""
What a program gets through a slow link, with and without the codec stage, beside a zlib pipe and ssh -C: a corpus of
text and random bytes, two hosts and a router; and what becomes of small messages.
"""

import shutil
import statistics

from engine import Key
from links import Copies, hosts

NAME = "codec"
DATA = ("text", "random")
BYTES = {10: 16_000_000, 100: 60_000_000, 0: 2_000_000_000}      # Mbit/s (0: not shaped): of a copy
SLOW_BYTES = 200_000_000        # the others, not shaped
ALL = ("raw", "codec", "pipe", "ssh")
WHO = ALL[:2]
ASK = ("before", "behind a bulk")
SIZES = (64, 1000)
GAP_US, QUESTIONS = 1000, 1000


def cells(o):
    for mbit in list(BYTES)[:1] if o.quick else BYTES:
        for data in DATA:
            yield Key(NAME, "goodput", "routed", "", data, mbit)


def asks(o):
    for size in SIZES[:1] if o.quick else SIZES:
        for when in ASK:
            yield Key(NAME, "rtt", "cable10", "", when, size)


def plan(o):
    for key in cells(o):
        yield key, ALL if key.wait == "text" else WHO
    for key in asks(o):
        yield key, WHO


def run(bench):
    if bench.field.why:
        bench.skip(NAME, None, None, bench.field.why)
        return
    o = bench.o
    if not (shutil.which("sshd", path="/usr/sbin:/sbin") and shutil.which("ssh")):
        bench.skip(NAME, "routed", "ssh", "openssh-server or -client is not installed")
    copies = Copies(o.build, bench.field.case)
    rounds = 1 if o.quick else 2
    for r in range(rounds):
        for key, who in plan(o):
            for v in bench.random.sample(who, len(who)):
                if key.what == "rtt":
                    with hosts(copies.case, 0, False) as lab:
                        bulk = 4_000_000 if key.wait == ASK[1] else 0
                        bench.keep(key, v, statistics.median(
                            copies.asked(lab, v == "codec", key.x, bulk, GAP_US, QUESTIONS)))
                elif not any(s["variant"] == v and s["part"] == NAME for s in bench.skips):
                    n = SLOW_BYTES if not key.x and v not in WHO else BYTES[key.x]
                    with hosts(copies.case, key.x, v == "codec") as lab:
                        bench.keep(key, v, getattr(copies, v)(lab, key.wait, n))
        bench.say("codec: round %d of %d" % (r + 1, rounds))
