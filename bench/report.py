#!/usr/bin/env python3
"""
A result as Markdown with plots. The text is report.md.in, where "@@ section" stands
for a table or plot made here; remarks are written there, by hand.

    report.py RESULT.json [DIR]         the report again, from a result that is there
"""

import json
import os
import pathlib
import sys

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import paper                                    # noqa: E402
import plots                                    # noqa: E402

LABEL = {"raw": "unintercepted", "null": "unintercepted, again", "plainpeer": "peer without roam",
         "thin": "thin", "thin-spin": "thin, `ROAM_SPIN=tcp`", "thick": "thick", "ring": "ring",
         "ring-sleep": "ring, asleep", "mpi-shm": "OpenMPI, shared memory", "mpi-tcp": "OpenMPI, TCP",
         "mpi-shm2": "OpenMPI, no CMA", "codec": "with the codec",
         "pipe": "gzip at both ends", "ssh": "`ssh -C`"}
ORDER = list(LABEL)
UNMEASURED = "*Not measured in this run.*"


class Hole(Exception):
    """A table lacks what it is to show."""


def number(x):
    if x is None:
        return "-"
    if x < 0 or 0 < x < 0.1:
        return "%.3g" % x
    return "{:,.0f}".format(x) if x >= 1000 else "%.0f" % x if x >= 200 else "%.1f" % x if x >= 20 else "%.2f" % x


def size(x):
    for unit, n in (("Mi", 1 << 20), ("Ki", 1 << 10)):
        if isinstance(x, int) and x >= n and x % n == 0:
            return "%d %s" % (x // n, unit)
    return str(x)


class Result:
    def __init__(self, data):
        self.data = data
        self.cells = {}
        for c in data["cells"]:
            key = (c["part"], c["what"], c["place"], c["pin"], c["wait"], c["x"])
            self.cells.setdefault(key, {})[c["variant"]] = c

    def parts(self):
        return self.data["options"]["only"]

    def excused(self, part, place, variant):
        return any(s["part"] in (None, part) and s["place"] in (None, place) and s["variant"] in (None, variant)
                   for s in self.data["skipped"])

    def row(self, part, what, place, pin, wait):
        """x -> variant -> cell"""
        found = {k[5]: v for k, v in self.cells.items() if k[:5] == (part, what, place, pin, wait)}
        return dict(sorted(found.items(), key=lambda kv: (isinstance(kv[0], str), kv[0])))

    def variants(self, rows, part, place):
        """All that appear anywhere; each must then be everywhere."""
        names = {v for cell in rows.values() for v in cell}
        lost = [(x, v) for x, cell in rows.items() for v in names
                if v not in cell and part in ("paper", "short", "codec", "growth")]
        if lost:
            raise Hole("%s %s: %s" % (part, place, ", ".join("%s at %s" % (v, x) for x, v in lost)))
        return sorted(names, key=lambda v: (ORDER.index(v) if v in ORDER else len(ORDER), v))


def table(head, rows):
    out = ["| %s |" % " | ".join(map(str, head)), "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join(out + ["| %s |" % " | ".join(map(str, r)) for r in rows])


def cell_text(c, ratio):
    if c is None:
        return "-"
    if not ratio:
        return number(c["median"])
    r = c.get("ratio")
    return "-" if not r else "%s (%s..%s)" % (three(r["median"]), three(r["q1"]), three(r["q3"]))


def three(x):
    return "%.3f" % x if abs(x) < 10 else number(x)


def by_size(res, part, what, place, pin, waits):
    """The paper's form: sizes go across; values, then ratios to the first row in the same way of waiting."""
    blocks = [(w, res.row(part, what, place, pin, w)) for w in waits]
    blocks = [(w, rows) for w, rows in blocks if rows]
    if not blocks:
        return UNMEASURED
    xs = list(blocks[0][1])
    head = ["bytes a message"] + [str(x) for x in xs]
    values, ratios = [], []
    for wait, rows in blocks:
        for v in res.variants(rows, part, place):
            name = "%s, %s" % (LABEL.get(v, v), wait) if wait else LABEL.get(v, v)
            cells = [rows[x].get(v) for x in xs]
            values.append([name] + [cell_text(c, False) for c in cells])
            if v != "raw" and any(c and "ratio" in c for c in cells):
                ratios.append([name] + [cell_text(c, True) for c in cells])
    text = table(head, values)
    if ratios:
        text += "\n\nTo unintercepted in the same way of waiting, median (quartiles) of the rounds:\n\n" + \
            table(head, ratios)
    return text


def by_x(res, part, title, columns, x_name):
    """One row for each x. columns: (heading, what, place, pin, wait)."""
    rows, head = {}, [x_name]
    for heading, what, place, pin, wait in columns:
        found = res.row(part, what, place, pin, wait)
        if not found:
            continue
        for v in res.variants(found, part, place):
            single = len({n for c in found.values() for n in c}) == 1
            head.append(heading if single else "%s: %s" % (heading, LABEL.get(v, v)))
            for x, cell in found.items():
                c = cell.get(v)
                text = cell_text(c, False)
                if c and "ratio" in c:
                    text += " (%s)" % three(c["ratio"]["median"])
                rows.setdefault(x, {})[len(head) - 1] = text
    if not rows:
        return UNMEASURED
    return (title + "\n\n" if title else "") + table(
        head, [[size(x)] + [r.get(i, "-") for i in range(1, len(head))] for x, r in rows.items()])


def core(res):
    out = []
    for what, title in (("rtt", "Round trip, us"), ("bw", "Stream, MB/s")):
        rows = res.row("core", what, "lo", "pinned", "")
        if not rows:
            return UNMEASURED
        names = []
        for cell in rows.values():
            names += [v for v in cell if v not in names]
        out.append("%s\n\n%s" % (title, table(["bytes"] + [size(x) for x in rows], [
            [v] + [cell_text(rows[x].get(v), False) for x in rows] for v in names])))
    return "\n\n".join(out)


def short(res):
    rows = []
    for what, pins in (("conn", ("pinned", "unpinned")), ("fdcall", ("pinned",))):
        for pin in pins:
            for x, cell in res.row("short", what, "lo", pin, "blocking" if what == "conn" else "").items():
                name = {"0": "open and close", "64": "64 bytes there and back"}.get(str(x), "%s on a device" % x)
                unit = "connections/s" if what == "conn" else "ns"
                more = [cell.get(v) for v in ("thin", "plainpeer", "null")]
                if not all(more) or "raw" not in cell:
                    raise Hole("short: %s" % name)
                rows.append(["%s, %s, %s" % (name, unit, pin), number(cell["raw"]["median"])] + [
                    ("%+.2f" if what == "fdcall" else "%.3f") % c["ratio"]["median"] for c in more])
    return table(["", "unintercepted", "thin", "peer without roam", "unintercepted, again"], rows) if rows else UNMEASURED


def paper_own(_res):
    out = []
    for what, title in (("rtt", "round trip"), ("bw", "bandwidth")):
        out += [["%s, %s" % (LABEL[v], title)] + ["%.2f" % paper.ratio(what, v, x) for x in paper.SIZES]
                for v in ("thin", "thick", "ring")]
    return table(["the paper, to unintercepted"] + list(paper.SIZES), out)


def machine(res):
    m, o = res.data["machine"], res.data["options"]
    lines = [
        "%s, %d CPUs%s, %s MB; Linux %s, %s, %s; %s%s" % (
            m["cpu"], m["cpus"], " (virtual)" if m.get("hypervisor") else "", m["memory_mb"], m["kernel"], m["libc"],
            m["compiler"], m["buildtype"], "" if m["sanitize"] in ("none", "") else ", sanitizers: " + m["sanitize"]),
        "roam %s, %s; load %s before, %s after" % (m["roam"], m["time"], m["load"][0], m.get("load_after", ["?"])[0]),
        "%d rounds of %d slices of %g ms, seed %d, CPUs %s; parts and seconds: %s" % (
            o["rounds"], o["slices"], o["slice_ms"], o["seed"], ",".join(map(str, o["cpus"])),
            ", ".join("%s %.0f" % x for x in res.data["took_s"].items())),
        "%d lines of the log say that a connection was upgraded" % res.data["upgraded"]]
    if m["mpi"]:
        lines.append(m["mpi"])
    if o["quick"]:
        lines.append("**A quick look (`--quick`): few rounds, nothing to conclude from.**")
    lines += ["Not measured: %s: %s" % (", ".join(str(s[k]) for k in ("part", "place", "variant") if s[k]) or "all",
                                        s["reason"]) for s in res.data["skipped"]]
    return "\n".join("- " + x for x in lines)


# ---- goals ----

def goals(data):
    """What is promised: name, measured, limit, verdict. MISSED: the better quartile misses it too."""
    res = data if isinstance(data, Result) else Result(data)
    out = []

    def goal(name, spread, limit, upper):
        if not spread:
            return

        def met(x):
            return x <= limit if upper else x >= limit
        best = spread["q1"] if upper else spread["q3"]
        out.append({"name": name, "limit": limit, "upper": upper, "spread": spread,
                    "verdict": "met" if met(spread["median"]) else "unsure" if met(best) else "MISSED"})

    for place in ("lo", "veth", "veth100"):
        for pin in ("pinned", "unpinned"):
            for wait in ("blocking", "spin"):
                for what, limit, upper in (("rtt", 1.01, True), ("bw", 0.98, False)):
                    for x, cell in res.row("paper", what, place, pin, wait).items():
                        where = "%s, %s, %s, %d B" % (place, pin, wait, x)
                        if "thin" in cell:
                            goal("thin %s, %s" % (what, where), cell["thin"].get("ratio"), limit, upper)
                        if "thick" in cell and paper.ratio(what, "thick", x):
                            goal("thick %s better than the paper's, %s" % (what, where), cell["thick"].get("ratio"),
                                 round(paper.ratio(what, "thick", x), 3), upper)
                        if "ring" in cell and wait == "spin" and place == "lo":
                            goal("ring %s against TCP, both spin, %s" % (what, where), cell["ring"].get("ratio"),
                                 1 / 8 if what == "rtt" else 5, upper)
                        if "ring-sleep" in cell and what == "rtt":
                            goal("ring asleep, %s" % where, cell["ring-sleep"].get("ratio"), 0.8, True)
    for pin in ("pinned", "unpinned"):
        for x, cell in res.row("short", "conn", "lo", pin, "blocking").items():
            goal("connections/s, %s, %s B" % (pin, x), cell.get("thin", {}).get("ratio"), 0.97, False)
    for x, cell in res.row("short", "fdcall", "lo", "pinned", "").items():
        goal("foreign descriptor, ns more, %s" % x, cell.get("thin", {}).get("ratio"), 3, True)
    return out


def goal_table(res):
    """One row a promise: the worst of its sizes first in words, and how many are met."""
    groups = {}
    for g in goals(res):
        name = g["name"].rsplit(", ", 1)
        groups.setdefault(name[0], []).append((name[1] if len(name) > 1 else "", g))
    if not groups:
        return UNMEASURED
    rows = []
    for name, found in groups.items():
        upper = found[0][1]["upper"]
        worst = sorted(found, key=lambda f: f[1]["spread"]["median"] / (f[1]["limit"] or 1), reverse=upper)[0]
        limits = sorted({g["limit"] for _, g in found})
        limit = "%s %s" % ("<=" if upper else ">=", "..".join(dict.fromkeys((three(limits[0]), three(limits[-1])))))
        counts = [sum(g["verdict"] == v for _, g in found) for v in ("met", "unsure", "MISSED")]
        rows.append([name, limit, "%s at %s" % (three(worst[1]["spread"]["median"]), worst[0]), *counts])
    return table(["goal (a ratio to unintercepted, if not said otherwise)", "", "worst", "met", "unsure", "MISSED"], rows)


# ---- the whole ----

WAITS = ("blocking", "spin")
GROWTH = ("lo", "pinned")


def tables(res):
    """section -> function that makes its text."""
    out = {"machine": lambda: machine(res), "goals": lambda: goal_table(res), "paper": lambda: paper_own(res),
           "core": lambda: core(res), "short": lambda: short(res)}
    for place in ("lo", "veth", "veth100"):
        for pin in ("pinned", "unpinned"):
            for what in ("rtt", "rtt.cpu", "rtt.switches", "bw", "bw.cpu", "bw.switches"):
                out["%s.%s.%s" % (what, place, pin)] = lambda what=what, place=place, pin=pin: by_size(
                    res, "paper", what, place, pin, WAITS)
    out["connections"] = lambda: by_x(res, "growth", "", [
        ("round trip of one, us", "rtt", *GROWTH, "connections"),
        ("messages/s on all", "rate", *GROWTH, "connections"),
        ("user memory of both ends, B", "memory", *GROWTH, "connections")], "connections")
    out["window"] = lambda: by_x(res, "growth", "", [("messages/s", "rate", *GROWTH, "window")], "under way")
    out["large"] = lambda: by_x(res, "growth", "", [
        ("round trip, us", "rtt", *GROWTH, "blocking"), ("MB/s", "bw", *GROWTH, "blocking")], "bytes")
    out["flight"] = lambda: by_x(res, "resume", "", [
        (h % p, w, n, "", "flight") for n, p in (("lo", "one host"), ("veth", "between hosts"))
        for h, w in (("%s: ms", "time"), ("%s: bytes sent again", "resent"))], "bytes in flight")
    out["broken"] = lambda: by_x(res, "resume", "", [
        ("one host: ms", "time", "lo", "", "connections"), ("between hosts: ms", "time", "veth", "", "connections")],
        "connections")
    out["moved"] = lambda: by_x(res, "resume", "", [
        ("freeze, ms", "freeze", "routed", "", "moved"),
        ("from its arrival to the last connection's next byte, ms", "time", "routed", "", "moved")], "connections")
    out["codec"] = lambda: by_x(res, "codec", "", [
        ("text", "goodput", "routed", "", "text"), ("random", "goodput", "routed", "", "random")], "Mbit/s (0: not shaped)")
    out["asked"] = lambda: by_x(res, "codec", "", [
        ("us, nothing else sent", "rtt", "cable10", "", "before"),
        ("us, link coded by a bulk before", "rtt", "cable10", "", "behind a bulk")], "bytes")
    return out


def check(data):
    """A column that a run should have and this result has not: one line each."""
    import engine
    import run
    cells = {engine.Key(*k): v for k, v in Result(data).cells.items()}
    o = type("Options", (), data["options"])
    return engine.missing([w for name in o.only for w in run.load_part(name).plan(o)], cells, data["skipped"])


def text(data, drawn):
    """The report; drawn: the plots that were made."""
    res = Result(data)
    made = tables(res)
    out = []
    for line in (HERE / "report.md.in").read_text().splitlines():
        if not line.startswith("@@ "):
            out.append(line)
            continue
        name = line[3:].strip()
        if name.startswith("plot "):
            name = name[5:]
            if name not in plots.NAMES:
                raise Hole("report.md.in asks for the plot %s, which nobody draws" % name)
            out.append("![%s](plots/%s.svg)" % (plots.NAMES[name], name) if name in drawn else "")
            continue
        if name not in made:
            raise Hole("report.md.in asks for %s, which nobody makes" % name)
        out.append(made[name]())
    return "\n".join(x.rstrip() for x in "\n".join(out).splitlines()) + "\n"


def write(data, where):
    """benchmarks.md and plots/ below a directory; what to say about it."""
    os.makedirs(os.path.join(where, "plots"), exist_ok=True)
    drawn, why = plots.draw(Result(data), os.path.join(where, "plots"))
    path = os.path.join(where, "benchmarks.md")
    with open(path, "w") as f:
        f.write(text(data, drawn))
    said = ["%s: %s" % (g["verdict"], g["name"]) for g in goals(data) if g["verdict"] == "MISSED"]
    return "\n".join(said + ["%s, %d plots%s" % (path, len(drawn), " (%s)" % why if why else "")])


def main():
    if len(sys.argv) not in (2, 3):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    with open(sys.argv[1]) as f:
        data = json.load(f)
    lost = check(data)
    for line in lost:
        print("report.py: lost: %s" % line, file=sys.stderr)
    print(write(data, sys.argv[2] if len(sys.argv) > 2 else os.path.dirname(os.path.abspath(sys.argv[1]))))
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
