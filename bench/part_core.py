"""The ring by itself: against two words that change hands, a ring without checks, and the kernel's sockets."""

import os

import part_paper
from engine import Key
from pairs import CorePair

NAME = "core"
SIZES = (8, 64, 512, 2048, 4096, 8192, 16384, 32768, 131072, 1048576)
STREAM = (8, 64, 1024, 4096, 32768, 131072, 1048576)
WORDS = ("bare", "futex")           # they can only do a round trip of 8 bytes
WAYS = ("spsc", "ring-busy", "ring", "ring-sleep", "unix", "unix-spin", "tcp", "tcp-spin")
# The sockets of "tcp" and "tcp-spin", re-linked.
RELINKED = {
    "sock-ring": ("tcp", {"ROAM_LINK": "ring"}),
    "sock-ring-poll": ("tcp-spin", {"ROAM_LINK": "ring"}),
    "sock-ring-sleep": ("tcp", {"ROAM_LINK": "ring", "ROAM_SPIN": "off"}),
    "sock-tcp": ("tcp", {"ROAM_LINK": "tcp"}),
}
MPI = dict(part_paper.MPI)
MPI["mpi-shm2"] = part_paper.MPIRUN + ["--mca", "btl", "self,vader", "--mca",
                                       "btl_vader_single_copy_mechanism", "none"]


def who(what, size):
    every = [*WAYS, *MPI]
    if what == "rtt" and size == 8:
        every = [*WORDS, *every]
    # A small ring beside spinning MPI ranks takes a time slice for each quarter of a large message.
    return every + (list(RELINKED) if size <= 32768 else [])


def plan(o):
    for what, sizes in (("rtt", SIZES[::3] if o.quick else SIZES), ("bw", STREAM[::4] if o.quick else STREAM)):
        for size in sizes:
            yield Key(NAME, what, "lo", "pinned", "", size), who(what, size)
    yield Key(NAME, "idle", "lo", "pinned", "", 0), ("ring",)


def start(bench, way):
    o = bench.o
    env = {k: v for k, v in os.environ.items() if not k.startswith("ROAM")}
    tmp = os.path.join(bench.tmp, "core-" + way)
    os.makedirs(tmp, mode=0o700, exist_ok=True)
    if way in MPI:
        return CorePair(way, [*MPI[way], o.mpi], dict(env, OMPI_MCA_orte_tmpdir_base=tmp), bench.tmp)
    if way in RELINKED:
        return CorePair(way, [o.relinked, RELINKED[way][0]], dict(env, ROAM_DIR=tmp, **RELINKED[way][1]), bench.tmp)
    return CorePair(way, [o.ring, way], env, bench.tmp)


def run(bench):
    o = bench.o
    have_mpi = os.access(o.mpi, os.X_OK)
    if not have_mpi:
        for v in MPI:
            bench.skip(NAME, None, v, "no OpenMPI (apt-get install openmpi-bin libopenmpi-dev, then build again)")
    ways = [*WORDS, *WAYS, *RELINKED, *(MPI if have_mpi else ())]
    rounds = max(1, min(o.rounds, 3))
    for r in range(rounds):
        pairs = []
        try:
            for w in ways:
                p = start(bench, w)
                pairs.append(p)
                p.settle()
                p.pin(o.cpus)
            for key, names in plan(o):
                able = [p for p in pairs if p.name in names]
                if key.what == "idle":
                    for p in able:
                        cpu, ns = p.ask("idle 1000")
                        bench.keep(key, p.name, cpu / 1e3 / (ns / 1e9))
                    continue
                suite = part_paper.SUITE[key.what]
                bench.keep_slices(key, bench.turns(able, max(2, o.slices // 2), lambda p, suite=suite, key=key:
                                                   p.slice(suite, key.x, 0, 0, int(o.slice_ms * 1500))))
        finally:
            bench.end(pairs)
        bench.say("core: round %d of %d" % (r + 1, rounds))
