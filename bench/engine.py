"""
What every part uses: variants that take turns in random order, and what is kept of them.

A cell is one place in a table: (part, what, place, pin, wait, x). All its variants
are alive at once. Each part says beforehand what it will measure (its plan); a cell
of the plan that is neither measured nor skipped with a reason is an error.
"""

import collections
import os
import random
import sys
import tempfile
import time

import stats
from pairs import Pair, Refuse

KEY = ("part", "what", "place", "pin", "wait", "x")
Key = collections.namedtuple("Key", KEY)

# what: (unit, is more better)
WHAT = {
    "rtt": ("us", False), "rtt.cpu": ("us CPU/round trip", False), "rtt.switches": ("switches/round trip", False),
    "bw": ("MB/s", True), "bw.cpu": ("CPU s/GB", False), "bw.switches": ("switches/message", False),
    "rate": ("messages/s", True), "conn": ("connections/s", True),
    "fdcall": ("ns/call", False), "memory": ("bytes/connection", False), "idle": ("us CPU/s", False),
    "time": ("ms", False), "resent": ("bytes", False), "freeze": ("ms", False), "goodput": ("Mbit/s", True),
}

RATES = ("bw", "rate", "conn")      # measured as the ns that a unit takes

# name: (server re-linked, client re-linked, link, environment, wait modes)
ROAM = {"ROAM_LOG": "info", "ROAM_CODEC": "off"}
VARIANTS = {
    "raw": (False, False, None, {}, ("blocking", "spin")),
    "null": (False, False, None, {}, ("blocking", "spin")),
    "plainpeer": (False, True, None, {"ROAM_LINK": "tcp"}, ("blocking", "spin")),
    "thin": (True, True, "tcp", {"ROAM_LINK": "tcp"}, ("blocking", "spin")),
    "thin-spin": (True, True, "tcp", {"ROAM_LINK": "tcp", "ROAM_SPIN": "tcp"}, ("blocking",)),
    "thick": (True, True, "thick", {"ROAM_LINK": "thick"}, ("blocking", "spin")),
    "ring": (True, True, "ring", {"ROAM_LINK": "ring"}, ("blocking", "spin")),
    "ring-sleep": (True, True, "ring", {"ROAM_LINK": "ring", "ROAM_SPIN": "off"}, ("blocking",)),
}


def more_is_better(what):
    return WHAT[what][1]


class Bench:
    def __init__(self, o, field):
        self.o = o
        self.field = field
        self.tmp = tempfile.mkdtemp(prefix="roam-bench-")
        self.random = random.Random(o.seed)
        self.cells = {}         # Key -> variant -> what each round gave
        self.skips = []         # {"part", "place", "variant", "reason"}; None: all
        self.upgrades = 0
        self.dead = set()       # (place, variant): cannot be had here
        self.began = time.monotonic()

    # ---- pairs ----

    def env(self, variant, place):
        env = {k: v for k, v in os.environ.items() if not k.startswith("ROAM")}
        if any(VARIANTS[variant][:2]):
            env.update(ROAM, **VARIANTS[variant][3])
            # Of its own on one host, so that no other program is met by accident.
            agent = place != "lo" or variant == "thick"
            env["ROAM_DIR"] = self.field.agent_dir if agent else os.path.join(self.tmp, "d")
            if not agent:
                os.makedirs(env["ROAM_DIR"], mode=0o700, exist_ok=True)
        return env

    def pair(self, variant, place="lo", flags=((), ())):
        server, client, link, _, _ = VARIANTS[variant]
        at = self.field.places[place]
        o = self.o
        return Pair(variant, (o.roam if server else o.plain, o.roam if client else o.plain),
                    self.env(variant, place), self.tmp, link, at.addr, at.enters, flags,
                    lambda node: self.field.listed(at.hosts[1], node.pid))

    def live(self, variants, place="lo", cpus=None, part=None, connected=True):
        """
        Pairs of these variants, connected and on their links. Thick alone may be
        lacking: this library may not have it; any other that fails is refused.
        """
        found = []
        try:
            for v in variants:
                if (place, v) in self.dead:
                    continue
                pair = self.pair(v, place)
                found.append(pair)
                if cpus:
                    pair.pin(cpus)
                if not connected:
                    pair.aim()
                    continue
                pair.connect()
                try:
                    pair.settle()
                except Refuse as e:
                    if v != "thick":
                        raise
                    found.pop().end()
                    self.dead.add((place, v))
                    self.skip(part, place, v, "no thick link: %s" % str(e).split("; its client")[0])
                    continue
                self.upgrades += pair.upgraded()
        except BaseException:
            self.end(found)
            raise
        return found

    @staticmethod
    def end(pairs):
        for p in pairs:
            p.end()

    # ---- samples ----

    def turns(self, pairs, slices, measure):
        """{variant: what measure(pair) gave}: so many slices, in random order."""
        got = {p.name: [] for p in pairs}
        for _ in range(slices):
            for p in self.random.sample(pairs, len(pairs)):
                got[p.name].append(measure(p))
        return got

    def keep(self, key, variant, values):
        """One round: samples in slices (a list), or one value."""
        self.cells.setdefault(key, {}).setdefault(variant, []).append(
            list(values) if isinstance(values, (list, tuple)) else [values])

    def keep_slices(self, key, got):
        """Time, CPU and switches of Slices, each as a cell of its own; ns, until it is reported."""
        for variant, slices in got.items():
            self.keep(key, variant, [s.ns / s.units for s in slices])
            for more, pick in (("cpu", lambda s: s.cpu), ("switches", lambda s: s.switches)):
                if slices[0].cpu is not None and key.what + "." + more in WHAT:
                    self.keep(key._replace(what=key.what + "." + more), variant, [pick(s) for s in slices])

    def skip(self, part, place, variant, reason):
        entry = {"part": part, "place": place, "variant": variant, "reason": reason}
        if entry not in self.skips:
            self.skips.append(entry)
            self.say("skipped: %s" % " ".join(str(x) for x in entry.values() if x))

    def say(self, text):
        print("%6.0f s  %s" % (time.monotonic() - self.began, text), file=sys.stderr, flush=True)

    # ---- results ----

    def records(self):
        out = []
        for key, cell in self.cells.items():
            unit, better = WHAT[key.what]
            base = "raw" if "raw" in cell else None
            for variant, rounds in cell.items():
                rec = dict(zip(KEY, key), variant=variant, unit=unit)
                rec.update(stats.spread([shown(key, stats.typical(key.pin, r)) for r in rounds]))
                if base and variant != base and compared(key.what):
                    rec["ratio"] = stats.spread([self.against(key, ours, raw)
                                                 for ours, raw in zip(rounds, cell[base])])
                    if key.what == "fdcall":    # a process keeps its luck: the luckiest of each
                        rec["ratio"]["median"] = stats.short(min(map(min, rounds)) - min(map(min, cell[base])))
                out.append(rec)
        return out

    @staticmethod
    def against(key, ours, raw):
        """Of one round: how many times raw it is, in the unit that is shown; fdcall: ns more."""
        if key.what == "fdcall":
            return min(ours) - min(raw)
        r = stats.ratio(key.pin, ours, raw)
        return 1 / r if key.what in RATES else r


def compared(what):
    return what in ("rtt", "bw", "rate", "conn", "fdcall", "goodput", "bw.cpu", "rtt.cpu")


def shown(key, v):
    """From what was measured (ns a unit, where it is a time) to the unit of WHAT."""
    what, x = key.what, key.x
    if what in ("rtt", "rtt.cpu"):
        return v / 1e3
    if what == "bw":                    # ns a byte
        return 1e3 / v
    if what == "bw.cpu":                # ns a byte: s/GB is the same number
        return v
    if what == "bw.switches":           # a byte; x: bytes a message
        return v * x
    if what in ("rate", "conn"):
        return 1e9 / v
    return v


def missing(plan, cells, skips):
    """What was to be measured and neither was nor is excused: a column that was lost."""
    def excused(key, variant):
        return any((s["part"] in (None, key.part)) and (s["place"] in (None, key.place)) and
                   (s["variant"] in (None, variant)) for s in skips)
    return ["%s: %s" % (" ".join(str(k) for k in key if k != ""), v) for key, variants in plan
            for v in variants if v not in cells.get(key, {}) and not excused(key, v)]
