"""What a program gets through a slow link, with and without the codec stage: text and noise, two hosts and a router."""

import time

import walkers
from cases_codec import NOISE, TEXT
from engine import Key
from places import Lab, agents

NAME = "codec"
DATA = {"text": TEXT, "noise": NOISE}
MBIT = (10, 100, 0)             # 0: not shaped
WHO = ("raw", "codec")
SETTLE, RUN = 2.0, 2.0          # seconds


def cells(o):
    for mbit in (MBIT[:1] if o.quick else MBIT):
        for data in DATA:
            yield Key(NAME, "goodput", "routed", "", data, mbit)


def plan(o):
    for key in cells(o):
        yield key, WHO


def goodput(bench, key, roam):
    with Lab(bench.field.case, "AB") as lab:
        if roam:
            agents.start_agents(lab)
        if key.x:
            lab.R.shape(lab.B, key.x)
        s = walkers.server(lab, lab.B, rate=20_000, roam=roam)
        c = walkers.client(lab, lab.A, s, seed=DATA[key.wait], roam=roam)
        c.proc.expect(r"^connected \d+", 10)
        if roam:
            c.wait_upgraded()
        time.sleep(SETTLE)
        n, began = s.received(), time.monotonic()
        time.sleep(RUN)
        got = (s.received() - n) * 8 / 1e6 / (time.monotonic() - began)
        walkers.verdict(bench.field.case, c, s, 30)      # every byte of it was right
        return got


def run(bench):
    if bench.field.why:
        bench.skip(NAME, None, None, bench.field.why)
        return
    o = bench.o
    rounds = 1 if o.quick else 2
    for r in range(rounds):
        for key in cells(o):
            for v in bench.random.sample(WHO, len(WHO)):
                bench.keep(key, v, goodput(bench, key, v == "codec"))
        bench.say("codec: round %d of %d" % (r + 1, rounds))
