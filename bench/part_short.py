"""Short connections, and calls on descriptors that are no sockets: what everybody pays."""

from engine import Key

NAME = "short"
WHO = ("raw", "null", "plainpeer", "thin")
PINS = ("pinned", "unpinned")
CONN = {0: "open and close", 64: "64 bytes there and back"}
CALLS = ("read", "write")


def plan(_o):
    for pin in PINS:
        for size in CONN:
            yield Key(NAME, "conn", "lo", pin, "blocking", size), WHO
    for call in CALLS:
        yield Key(NAME, "fdcall", "lo", "pinned", "", call), WHO


def run(bench):
    o = bench.o
    for r in range(o.rounds):
        for pin in PINS:
            pairs = bench.live(WHO, "lo", o.cpus if pin == "pinned" else (-1, -1), NAME, connected=False)
            try:
                for p in pairs:
                    p.slice("conn", 64, 0, 0, 100000, 200)
                for size in CONN:
                    def one(p, size=size, pin=pin):
                        if pin == "unpinned":
                            p.scatter(o.cpus[0])
                        s = p.slice("conn", size, 0, 500, int(o.slice_ms * 2000))
                        return s.ns / s.units
                    for v, got in bench.turns(pairs, o.slices, one).items():
                        bench.keep(Key(NAME, "conn", "lo", pin, "blocking", size), v, got)
                if pin == "pinned":
                    for call in CALLS:
                        for v, got in bench.turns(pairs, o.slices, lambda p, call=call:
                                                  p.fdcall(call, 20, 500)).items():
                            bench.keep(Key(NAME, "fdcall", "lo", pin, "", call), v, got)
            finally:
                bench.end(pairs)
        bench.say("short: round %d of %d" % (r + 1, o.rounds))
