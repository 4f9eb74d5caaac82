"""Tables 1 and 2, figures 4 and 5: round trip and bandwidth by message size, place, placement and way of waiting."""

import os
import shutil

from engine import VARIANTS, Key
from pairs import CorePair, Slice

NAME = "paper"
PLACES = ("lo", "veth", "veth100")
PINS = {"lo": ("pinned", "unpinned"), "veth": ("pinned", "unpinned"), "veth100": ("pinned",)}
WHO = {"lo": ("raw", "null", "thin", "thin-spin", "thick", "ring", "ring-sleep"),
       "veth": ("raw", "null", "thin", "thick", "ring"),
       "veth100": ("raw", "thin", "thick", "ring")}
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", "2"]
MPI = {
    "mpi-shm": MPIRUN + ["--mca", "btl", "self,vader"],
    "mpi-tcp": MPIRUN + ["--mca", "pml", "ob1", "--mca", "btl", "self,tcp", "--mca", "btl_tcp_if_include", "lo"],
}
SUITE = {"rtt": "pingpong", "bw": "stream"}
SIZES = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


def cells(o):
    """(key, variants), in the order of measuring."""
    for place in PLACES:
        for pin in PINS[place]:
            for what in SUITE:
                for size in o.sizes:
                    # A queue of a tenth of a second: nobody spins for it.
                    for wait in ("blocking",) if (place, what) == ("veth100", "bw") else ("blocking", "spin"):
                        who = [v for v in WHO[place] if wait in VARIANTS[v][4]]
                        if place == "lo" and wait == "spin":    # OpenMPI knows no other way
                            who += MPI
                        yield Key(NAME, what, place, pin, wait, size), who


def plan(o):
    """With CPU and switches, for what is made of our own nodes."""
    for key, who in cells(o):
        yield key, who
        own = [v for v in who if v not in MPI]
        for more in ("cpu", "switches"):
            yield key._replace(what=key.what + "." + more), own


def mpi_pairs(bench, pin):
    """mpirun's two; a reason when there are none."""
    o = bench.o
    if not (shutil.which("mpirun") and os.access(o.mpi, os.X_OK)):
        for v in MPI:
            bench.skip(NAME, "lo", v, "no OpenMPI (apt-get install openmpi-bin libopenmpi-dev, then build again)")
        return []
    found = []
    for v, argv in MPI.items():
        # of its own: two mpiruns that start at once get in each other's way
        tmp = os.path.join(bench.tmp, v)
        os.makedirs(tmp, exist_ok=True)
        p = CorePair(v, [*argv, o.mpi], dict(os.environ, OMPI_MCA_orte_tmpdir_base=tmp), bench.tmp)
        found.append(p)
        p.settle()
        p.pin(o.cpus if pin == "pinned" else (-1, -1))
    return found


def measure(bench, key):
    """A function that takes one slice of this cell."""
    o = bench.o
    spin, pinned = int(key.wait == "spin"), key.pin == "pinned"
    run_us = int(o.slice_ms * (1000 if pinned else 2000))   # a scheduler that may choose needs time
    warm_us = run_us // (10 if pinned else 4)
    if key.place == "veth100":
        warm_us = 0
        if key.what == "bw":            # longer than its queue
            run_us = 250000 if not o.quick else 100000

    def one(pair):
        if not pinned and not spin:     # two that spin leave each other anyway
            pair.scatter(o.cpus[0])
        agents = bench.field.agent_usage() if pair.name == "thick" else None
        s = pair.slice(SUITE[key.what], key.x, spin, warm_us, run_us)
        if agents:                      # they carry the bytes: their cost is its cost
            cpu, switches = (b - a for a, b in zip(agents, bench.field.agent_usage()))
            s = Slice(s.units, s.ns, s.cpu + cpu / s.units, s.switches + switches / s.units)
        return s
    return one


def run(bench):
    o = bench.o
    todo = list(cells(o))
    for r in range(o.rounds):
        for place in PLACES:
            if place not in bench.field.places:
                bench.skip(None, place, None, bench.field.why)
                continue
            for pin in PINS[place]:
                pairs = bench.live(WHO[place], place, o.cpus if pin == "pinned" else (-1, -1), NAME)
                try:
                    if place == "lo":
                        pairs += mpi_pairs(bench, pin)
                    for key, who in todo:
                        if (key.place, key.pin) != (place, pin):
                            continue
                        slow = place == "veth100"
                        n = max(1, o.slices // 8) if slow and key.what == "bw" else \
                            max(2, o.slices // 4) if slow else o.slices
                        bench.keep_slices(key, bench.turns([p for p in pairs if p.name in who], n,
                                                           measure(bench, key)))
                finally:
                    bench.end(pairs)
        bench.say("paper: round %d of %d" % (r + 1, o.rounds))
