"""More of everything: connections, messages under way, bytes in a message; and the memory of it."""

from engine import Key
from pairs import Refuse

NAME = "growth"
WHO = ("raw", "thin", "ring")
CONNECTIONS = (1, 10, 100, 1000, 10000)
WINDOWS = (1, 4, 16, 64, 256)
LARGE = (65536, 262144, 1 << 20, 4 << 20, 16 << 20)
EXCHANGES = 48              # until a connection is on its ring
MEMORY_FROM = 100           # below, it is the memory of the first connection


def counts(o):
    return [n for n in CONNECTIONS if n <= o.connections]


def windows(o):
    return WINDOWS[::2] if o.quick else WINDOWS


def large(o):
    return LARGE[::2] if o.quick else LARGE


def plan(o):
    for n in counts(o):
        yield Key(NAME, "rtt", "lo", "pinned", "connections", n), WHO
        yield Key(NAME, "rate", "lo", "pinned", "connections", n), WHO
        if n >= MEMORY_FROM:
            yield Key(NAME, "memory", "lo", "pinned", "connections", n), WHO
    for n in windows(o):
        yield Key(NAME, "rate", "lo", "pinned", "window", n), WHO
    for size in large(o):
        for what in ("rtt", "bw"):
            yield Key(NAME, what, "lo", "pinned", "blocking", size), WHO


def connections(bench, last):
    """The same processes get more and more of them; one round."""
    o = bench.o
    pairs = bench.live(WHO, "lo", o.cpus, NAME, connected=False)
    try:
        for p in pairs:
            p.both("many-server 64 0", "dial 1 %d" % EXCHANGES)
            p.one = 1
        empty = {p.name: sum(n.pss() for n in p.nodes) for p in pairs}
        for n in [c for c in counts(o) if c <= last]:
            for p in pairs:
                if n > p.one:
                    p.both("many-server 64 0", "dial %d %d" % (n - p.one, EXCHANGES if p.link else 1), 400)
                    p.one = n
                want = n * 0.95 if p.link else 0
                if min(node.lines(" upgraded ") for node in p.nodes) < want:
                    raise Refuse("%s: fewer than %d of %d connections are upgraded" % (p.name, want, n))
            for what, cmd in (("rtt", "one 64 0 1000 %d 1" % int(o.slice_ms * 1000)),
                              ("rate", "sweep 64 0 0 %d 1" % int(o.slice_ms * 2000))):
                def one(p, cmd=cmd):
                    _, c = p.both("many-server 64 0", cmd)
                    return c.ns / c.units
                bench.turns(pairs, 1, one)
                key = Key(NAME, what, "lo", "pinned", "connections", n)
                for v, got in bench.turns(pairs, max(2, o.slices // 2) if n < 10000 else 4, one).items():
                    bench.keep(key, v, got)
            if n >= MEMORY_FROM:
                for p in pairs:
                    bench.keep(Key(NAME, "memory", "lo", "pinned", "connections", n), p.name,
                               (sum(x.pss() for x in p.nodes) - empty[p.name]) / (n - 1))
            if n >= 1000:
                bench.say("growth: %d connections" % n)
    finally:
        bench.end(pairs)


def one_connection(bench):
    o = bench.o
    pairs = bench.live(WHO, "lo", o.cpus, NAME)
    try:
        for n in windows(o):
            def one(p, n=n):
                s = p.window(64, n, int(o.slice_ms * 1000))
                return s.ns / s.units
            for v, got in bench.turns(pairs, o.slices, one).items():
                bench.keep(Key(NAME, "rate", "lo", "pinned", "window", n), v, got)
        for size in large(o):
            for what, suite in (("rtt", "pingpong"), ("bw", "stream")):
                # At least some tens of milliseconds: it is few messages.
                def one(p, size=size, suite=suite):
                    s = p.slice(suite, size, 0, 1000, max(int(o.slice_ms * 1000), size >> 10))
                    return s.ns / s.units
                for v, got in bench.turns(pairs, max(2, o.slices // 4), one).items():
                    bench.keep(Key(NAME, what, "lo", "pinned", "blocking", size), v, got)
    finally:
        bench.end(pairs)


def run(bench):
    rounds = bench.o.rounds
    for r in range(rounds):
        one_connection(bench)
        if r < 3:                   # the many ones once: making them takes longest
            connections(bench, 1000 if r else 10000)
        bench.say("growth: round %d of %d" % (r + 1, rounds))
