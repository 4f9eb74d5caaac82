"""Plots by gnuplot: SVG, one a file, with quartiles as bars."""

import os
import shutil
import subprocess

# name: what it shows. Those of the paper: x is the size of a message.
NAMES = {}
PLOTS = {}


def plot(name, title, ylabel, xlabel, series, logy=True):
    """series: (title, part, what, place, pin, wait, variant)"""
    NAMES[name] = title
    PLOTS[name] = (title, ylabel, xlabel, series, logy)


PAPER = [("unintercepted", "raw"), ("thin", "thin"), ("thick", "thick"), ("ring", "ring")]
for _what, _word, _unit in (("rtt", "Round trip", "us"), ("bw", "Bandwidth", "MB/s")):
    plot("figure4-" + _what, "%s over 100 Mbit/s, both ends blocking, pinned (the paper's figure 4)" % _word, _unit,
         "bytes a message", [(t, "paper", _what, "veth100", "pinned", "blocking", v) for t, v in PAPER[:3]])
    plot("figure5-" + _what, "%s: the ring, and unintercepted over 100 Mbit/s (the paper's figure 5)" % _word, _unit,
         "bytes a message", [("unintercepted, 100 Mbit/s", "paper", _what, "veth100", "pinned", "blocking", "raw"),
                             ("ring, one host", "paper", _what, "lo", "pinned", "blocking", "ring"),
                             ("ring, asleep", "paper", _what, "lo", "pinned", "blocking", "ring-sleep"),
                             ("ring, between namespaces", "paper", _what, "veth", "pinned", "blocking", "ring")])
    for _place, _where in (("lo", "loopback"), ("veth", "a veth between namespaces")):
        for _wait in ("blocking", "spin"):
            plot("%s-%s-%s" % (_place, _what, _wait), "%s over %s, pinned, %s" % (_word, _where, _wait), _unit,
                 "bytes a message", [(t, "paper", _what, _place, "pinned", _wait, v) for t, v in PAPER] + (
                     [("ring, asleep", "paper", _what, "lo", "pinned", _wait, "ring-sleep"),
                      ("OpenMPI, shared memory", "paper", _what, "lo", "pinned", _wait, "mpi-shm"),
                      ("OpenMPI, TCP", "paper", _what, "lo", "pinned", _wait, "mpi-tcp")] if _place == "lo" else []))
PLAIN = [("unintercepted", "raw"), ("thin", "thin"), ("ring", "ring")]
for _name, _title, _unit, _x, _what, _wait in (
        ("connections-rtt", "Round trip of one connection beside others", "us", "connections", "rtt", "connections"),
        ("connections-rate", "A message on each connection in turn", "messages/s", "connections", "rate", "connections"),
        ("memory", "User memory of a connection, both ends", "bytes", "connections", "memory", "connections"),
        ("window", "64-byte messages under way at once", "messages/s", "messages", "rate", "window"),
        ("large-bw", "Large messages", "MB/s", "bytes a message", "bw", "blocking")):
    plot(_name, _title, _unit, _x, [(t, "growth", _what, "lo", "pinned", _wait, v) for t, v in PLAIN])
plot("flight", "From a break to the last byte", "ms", "bytes in flight",
     [(t, "resume", "time", p, "", "flight", "thin") for t, p in (("one host", "lo"), ("between hosts", "veth"))])
plot("broken", "From a break of all connections to a message on each; from the arrival after a move", "ms", "connections",
     [("broken, one host", "resume", "time", "lo", "", "connections", "thin"),
      ("broken, between hosts", "resume", "time", "veth", "", "connections", "thin"),
      ("moved to another host", "resume", "time", "routed", "", "moved", "thin")])


def script(res, name, path):
    """What gnuplot is told; "" when there is nothing to draw."""
    title, ylabel, xlabel, series, logy = PLOTS[name]
    blocks, curves = [], []
    for text, part, what, place, pin, wait, variant in series:
        rows = [(x, c[variant]) for x, c in res.row(part, what, place, pin, wait).items() if variant in c]
        if not rows:
            continue
        n = len(blocks)
        # Nothing below zero on a logarithmic scale: memory of a plain connection may be.
        lines = ["%s %g %g %g" % (x, c["median"], c["q1"], c["q3"]) for x, c in rows if c["q1"] > 0 or not logy]
        if not lines:
            continue
        blocks.append("$d%d << EOD\n%s\nEOD" % (n, "\n".join(lines)))
        curves.append('$d%d using 1:2:3:4 with yerrorlines lw 1.5 pt 7 ps 0.4 lc %d title "%s"' % (n, n + 1, text))
    if not curves:
        return ""
    return "\n".join([
        'set terminal svg size 720,420 dynamic font "sans,11" background "white"', 'set output "%s"' % path,
        'set title "%s"' % title, 'set xlabel "%s"' % xlabel, 'set ylabel "%s"' % ylabel,
        "set grid", "set key outside right top", "set logscale x 2" if "bytes" in xlabel else "set logscale x",
        'set format x "%.0f"' if "bytes" not in xlabel else 'set format x "%.0b%B"', "set logscale y" if logy else "",
        *blocks, "plot " + ", \\\n     ".join(curves), ""])


def draw(res, where):
    """(names that were drawn, why not all)"""
    if not shutil.which("gnuplot"):
        return [], "no gnuplot: apt-get install gnuplot-nox"
    drawn = []
    for name in PLOTS:
        s = script(res, name, os.path.join(where, name + ".svg"))
        if not s:
            continue
        done = subprocess.run(["gnuplot"], input=s, text=True, stderr=subprocess.PIPE)
        if done.returncode:
            return drawn, "gnuplot, %s: %s" % (name, done.stderr.strip())
        drawn.append(name)
    return drawn, ""
