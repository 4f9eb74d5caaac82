#!/usr/bin/env python3
"""selftest.py: the bench's own test, with results that nobody measured: report, plots, compare, plan."""
import copy
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parent.parent
sys.path[:0] = [str(TOP / "tests" / "meta"), str(TOP / "bench")]
import tap  # noqa: E402

import engine  # noqa: E402
import report  # noqa: E402
import run  # noqa: E402
import stats  # noqa: E402


def options():
    return type("Options", (), dict(only=list(run.PARTS), quick=False, rounds=5, slices=8, slice_ms=2.0, sizes=list(run.SIZES),
                                    connections=10000, cpus=[0, 1], seed=1))


def fake(seed=1, factor=1.0, jitter=0.002, skipped=()):
    """A whole result, as the plan has it. factor: how much slower everything but raw is."""
    rng, o = random.Random(seed), options()
    bench = engine.Bench.__new__(engine.Bench)
    bench.cells = {}
    for name in run.PARTS:
        for key, variants in run.load_part(name).plan(o):
            for v in variants:
                # of a variant and not of a round, and the same in each fake
                base = random.Random("%s %s" % (key, v)).uniform(5, 50) if v != "raw" else 20.0
                rounds = [[base * (factor if v != "raw" else 1) * rng.uniform(1 - jitter, 1 + jitter) for _ in range(3)]
                          for _ in range(o.rounds)]
                bench.cells.setdefault(key, {})[v] = rounds
    about = dict(cpu="None", cpus=2, hypervisor=True, memory_mb=1, kernel="0", compiler="cc", buildtype="x", sanitize="none",
                 libc="c", mpi="", roam="0", time="never", load=[0.0, 0, 0])
    keep = ("only", "quick", "rounds", "slices", "slice_ms", "sizes", "connections", "cpus", "seed")
    return json.loads(json.dumps({"format": 1, "machine": about, "options": {k: getattr(o, k) for k in keep},
                                  "took_s": {"paper": 1.0}, "upgraded": 1, "skipped": list(skipped),
                                  "cells": bench.records()}))


def without(data, **what):
    data = copy.deepcopy(data)
    data["cells"] = [c for c in data["cells"] if any(c[k] != v for k, v in what.items())]
    return data


def whole():
    """Every place of the template is filled, and no table has a hole."""
    data = fake()
    bad = ["lost: " + x for x in report.check(data)[:3]]
    text = report.text(data, list(report.plots.NAMES))
    bad += ["not measured, and it was: %s" % text[max(0, m.start() - 80):m.start()].strip()
            for m in re.finditer(re.escape(report.UNMEASURED), text)]
    bad += ["left in the report: %s" % line for line in text.splitlines() if line.startswith("@@")]
    for name in report.plots.NAMES:
        if "plots/%s.svg" % name not in text:
            bad.append("bench/report.md.in does not show the plot %s" % name)
    for word in ("unintercepted, blocking", "thin, blocking", "thick, blocking", "ring, blocking", "ring, asleep",
                 "OpenMPI, shared memory", "OpenMPI, TCP", "ring, spin"):
        if "| " + word not in text:
            bad.append("no row \"%s\"" % word)
    heads = re.findall(r"^\| bytes a message \|.*$", text, re.M)
    if len(heads) < 20 or any(h.count("|") != len(run.SIZES) + 2 for h in heads):
        bad.append("the tables of the paper have not all of its sizes")
    return bad


def columns():
    """A harness that lost a column: seen whichever it is, by the plan and by the exit status of report.py."""
    bad, data = [], fake()
    for what in (dict(part="paper", variant="ring", place="lo"), dict(part="paper", what="bw.cpu"), dict(part="paper", x=4096),
                 dict(part="core", variant="spsc"), dict(part="short", variant="plainpeer"), dict(part="codec", variant="codec"),
                 dict(part="growth", what="memory"), dict(part="resume", what="resent")):
        if not report.check(without(data, **what)):
            bad.append("lost and not missed: %s" % what)
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "benchmarks.json")
        run.dump(without(data, part="growth", what="memory"), path)
        done = subprocess.run([sys.executable, TOP / "bench/report.py", path], capture_output=True, text=True,
                              env=dict(os.environ, PATH="/nonexistent"))
        if done.returncode != 1 or "lost: growth memory" not in done.stderr:
            bad.append("report.py of a lost column: %d %s" % (done.returncode, done.stderr[-200:]))
    try:
        report.text(without(data, part="paper", variant="thin", what="rtt", x=512, place="lo", pin="pinned", wait="spin"), [])
        bad.append("a table with a hole was written")
    except report.Hole:
        pass
    return bad


def excused():
    """What was skipped with a reason is not lost, and the report says why."""
    why = {"part": "paper", "place": "lo", "variant": "thick", "reason": "there is none yet"}
    data = without(fake(skipped=[why]), part="paper", place="lo", variant="thick")
    bad = report.check(data)[:3]
    if "there is none yet" not in report.text(data, []):
        bad.append("the reason is not in the report")
    data["skipped"] = []
    if not report.check(data):
        bad.append("without the reason it is not missed")
    return bad


def goals():
    """A goal that is met, one that is missed, one that cannot be told."""
    bad = []
    for values, want in (([1.0] * 5, "met"), ([1.5] * 5, "MISSED"), ([0.9, 0.95, 1.1, 1.2, 1.3], "unsure")):
        data = fake()
        for c in data["cells"]:
            if (c["part"], c["what"], c["variant"]) == ("paper", "rtt", "thin"):
                c["ratio"] = stats.spread(values)
        got = {g["verdict"] for g in report.goals(data) if g["name"].startswith("thin rtt")}
        if got != {want}:
            bad.append("%s: %s, not %s" % (values, got, want))
    return bad


def compare(a, b, *args):
    with tempfile.TemporaryDirectory() as tmp:
        paths = [os.path.join(tmp, n) for n in ("a.json", "b.json")]
        for path, data in zip(paths, (a, b)):
            run.dump(data, path)
        done = subprocess.run([sys.executable, TOP / "bench/compare", *paths, *args], capture_output=True, text=True)
    last = (done.stdout.splitlines() or [""])[-1]
    return done, [int(n) for n in re.findall(r"(\d+) (?:worse|better|the same|gone|new)", last)]


def changes():
    """compare: the same is the same, slower is worse, faster is better, noise is nothing."""
    bad = []
    for factor, jitter, where in ((1.0, 0.002, 2), (1.3, 0.002, None), (1.03, 0.2, 2)):
        done, n = compare(fake(1, 1.0, jitter), fake(2, factor, jitter), "--check")
        if done.returncode not in (0, 1) or len(n) != 5:
            return ["compare: %d %s" % (done.returncode, done.stderr[-300:])]
        changed = n[0] + n[1]
        if where == 2 and changed > (n[2] // 200 if jitter < 0.1 else n[2] // 20):
            bad.append("%g times with a spread of %g: %d changes of %d" % (factor, jitter, changed, sum(n)))
        if where is None and (changed < n[2] / 4 or done.returncode != 1 or n[0] < 100):
            bad.append("30 %% slower: %s, exit %d" % (n, done.returncode))
    slow = fake(2)
    for c in slow["cells"]:
        for s in [c] + ([c["ratio"]] if "ratio" in c else []):
            k = 0.5 if engine.more_is_better(c["what"]) else 2.0
            if c["what"] != "fdcall":
                s.update({q: s[q] * k for q in ("median", "q1", "q3")}, rounds=[x * k for x in s["rounds"]])
    _, worse = compare(fake(1), slow)
    _, better = compare(slow, fake(1))
    if worse[1] or worse[0] < 1000:
        bad.append("everything is half as good: %s" % worse)
    if better[0] or better[1] < 1000:
        bad.append("everything is twice as good: %s" % better)
    done, n = compare(fake(1), without(fake(1), variant="ring"), "--check")
    if not n[3] or done.returncode != 1 or "gone   paper" not in done.stdout:
        bad.append("a lost column is not gone: %s" % n)
    return bad


def numbers():
    """Ratios, spreads and units by hand."""
    key = engine.Key("paper", "bw", "lo", "pinned", "blocking", 128)
    bench = engine.Bench.__new__(engine.Bench)
    bench.cells = {key: {"raw": [[2.0, 2.0], [2.0, 2.0]], "thin": [[4.0, 4.0], [2.0, 2.0]]}}
    got = {c["variant"]: c for c in bench.records()}
    bad = []
    if got["raw"]["median"] != 500 or got["thin"]["rounds"] != [250, 500] or got["thin"]["ratio"]["rounds"] != [0.5, 1]:
        bad.append("bandwidth: %s" % got)
    if engine.shown(key._replace(what="bw.switches"), 0.5) != 64 or engine.shown(key._replace(what="rtt"), 2000) != 2:
        bad.append("units")
    s = stats.spread([1, 2, 3, 4, 5])
    if (s["q1"], s["median"], s["q3"]) != (2, 3, 4):
        bad.append("quartiles: %s" % s)
    if stats.apart(s, stats.spread([4, 4, 4])) or not stats.apart(s, stats.spread([9, 9, 9])):
        bad.append("apart")
    return bad


def drawings():
    """gnuplot takes every plot; each has as many curves as there are."""
    if not shutil.which("gnuplot"):
        raise tap.Skip("gnuplot is not installed")
    with tempfile.TemporaryDirectory() as tmp:
        said = report.write(fake(), tmp)
        made = sorted(p.stem for p in pathlib.Path(tmp, "plots").iterdir())
        bad = ["%s was not drawn: %s" % (n, said[-200:]) for n in report.plots.NAMES if n not in made]
        svg = pathlib.Path(tmp, "plots", "figure4-rtt.svg")
        if not bad and not all(x in svg.read_text() for x in (">unintercepted<", ">thin<", ">thick<")):
            bad.append("figure 4 lacks a curve")
    return bad


def committed():
    """docs/benchmarks.md is what its JSON and the template make."""
    path = TOP / "docs" / "benchmarks.json"
    if not path.exists():
        raise tap.Skip("no result is committed")
    data = json.loads(path.read_text())
    text = report.text(data, [p.stem for p in (TOP / "docs" / "plots").glob("*.svg")])
    bad = report.check(data)[:5]
    if text != (TOP / "docs" / "benchmarks.md").read_text():
        bad.append("docs/benchmarks.md is not of its JSON and bench/report.md.in: bench/report.py docs/benchmarks.json")
    return bad


if __name__ == "__main__":
    sys.exit(tap.run([
        ("a whole result makes a whole report", whole), ("a lost column is noticed", columns),
        ("what was skipped is excused, with its reason", excused), ("goals: met, missed, unsure", goals),
        ("compare: only what really changed", changes), ("ratios, units and quartiles", numbers),
        ("the plots are drawn", drawings), ("the committed report is of the committed result", committed)]))
