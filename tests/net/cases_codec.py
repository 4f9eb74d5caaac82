"""Slow links: the codec stage comes when it pays, goes when it does not, and not a byte is wrong."""
import os
import re
import time

import agents
import walkers
from farwire import Farwire
from harness import wait_for
from lab import Lab, need_tools

TEXT = 0xA5 << 56           # a seed whose stream deflate makes a third of (examples/digest.h)
NOISE = 1


def with_lab(fn, delay=None, **how):
    """delay: a cable of 10 Mbit/s that takes so many seconds is all there is between the hosts."""
    def run(case):
        need_tools()
        with Lab(case, "AB") as lab:
            if delay:
                for h, addr in zip((lab.A, lab.B), Farwire(lab, lab.A, lab.B, delay, 10e6).addr):
                    h.link_down()
                    h.addr = addr
            else:
                lab.R.shape(lab.B, 10)
            agents.start_agents(lab, [lab.A, lab.B])
            fn(case, lab, **how)
    return run


def flow(lab, seed, mode="epoll", both=False):
    """Client A sends as fast as it can, and the server a little, or as fast."""
    s = walkers.server(lab, lab.B, mode=mode, rate=None if both else 20_000)
    c = walkers.client(lab, lab.A, s, seed=seed, mode=mode)
    c.proc.expect(r"^connected \d+", 10)
    c.wait_upgraded()
    s.wait_upgraded()
    return c, s


def goodput(w, seconds):
    """Megabits a second that it receives."""
    began, n = time.monotonic(), w.received()
    time.sleep(seconds)
    return (w.received() - n) * 8 / 1e6 / (time.monotonic() - began)


def said(w, pattern):
    return len(re.findall(pattern, w.proc.err()))


def comes(case, lab, mode):
    """10 Mbit/s, text: more goes through than the link can carry."""
    c, s = flow(lab, TEXT, mode=mode)
    wait_for(lambda: said(c, r"link=codec"), 10, "the codec stage")
    time.sleep(1)
    fast = goodput(s, 2)
    case.check(fast > 12, f"{fast:.1f} Mbit/s of text through 10 Mbit/s")
    walkers.verdict(case, c, s, 30)


def text_file(lab, lines):
    """Something like text; its name and its size."""
    path = os.path.join(lab.dir, "text")
    with open(path, "w") as f:
        f.writelines(f"line {i}: the square of {i} is {i * i}\n" for i in range(lines))
    return path, os.path.getsize(path)


def copy(lab, text, n, port=4001):
    """n bytes of it, by a sender that sleeps in write to a reader that sleeps in read; what came is compared."""
    program, got = walkers.program(lab, "transfer"), os.path.join(lab.dir, "got")
    b = lab.spawn(lab.B, ["sh", "-c", f"{program} out {lab.B.addr} {port} > {got} && head -c {n} {text} | cmp - {got}"],
                  label="out")
    wait_for(lambda: "ready" in b.err(), 10, "the one that listens")
    a = lab.spawn(lab.A, [program, "source", lab.B.addr, port, text, n], label="source")
    a.succeed(30)
    b.succeed(30)
    return a, b


def copied(case, lab):
    """Of a sender that sleeps in write all the time, to a reader that sleeps in read."""
    text, size = text_file(lab, 200_000)
    began = time.monotonic()
    a, _ = copy(lab, text, size)
    mbit = size * 8e-6 / (time.monotonic() - began)
    case.check("link=codec" in a.err(), "no codec stage")
    case.check(mbit > 12, f"{mbit:.1f} Mbit/s of text through 10 Mbit/s")


def ended(case, lab):
    """Sent, closed, and gone, while the reader's notes are still on their way: the end is an end, and nothing is lost."""
    text, size = text_file(lab, 150_000)
    lab.R.shape(lab.B, 20)
    coded = 0
    for i in range(8):
        a, b = copy(lab, text, size - i * 77_777, 4001 + i)
        case.check("reset" not in b.err(), f"{i}: {b.err()[-200:]}")
        coded += "link=codec" in a.err()
    case.check(coded >= 6, f"only {coded} of 8 were coded")


def told(case, lab):
    """A program that asks (roam.h) hears what the link carries, and each change, with the codec off, too."""
    lab.R.shape(lab.B, 40)
    b = lab.spawn(lab.B, [walkers.program(lab, "transfer"), "out", lab.B.addr, 4001], label="out")
    wait_for(lambda: "ready" in b.err(), 10, "the one that listens")
    a = lab.spawn(lab.A, [walkers.program(lab, "teller"), lab.B.addr, 4001, 20],
                  env=case.environ(ROAM_CODEC="off"), label="teller")

    def heard():
        """Mbit/s, last."""
        said = re.findall(r"^bandwidth fd (\d+) is (\d+), (\d+)$", a.out(), re.M)
        case.check(all(x == y for x, y, _ in said), "of another descriptor")
        return int(said[-1][2]) * 8e-6 if said else 0
    for mbit in (40, 8, 40):
        lab.R.shape(lab.B, mbit)
        wait_for(lambda: mbit * 0.75 < heard() < mbit * 1.25, 8, f"{mbit} Mbit/s to be told, not {heard():.1f}")
    n = len(a.out().splitlines())
    case.check(n < 60, f"{n} events")
    case.note(f"{n} events")


def stays_away(case, lab, mbit, seed):
    lab.R.shape(lab.B, mbit)
    c, s = flow(lab, seed)
    time.sleep(3)
    case.check(not said(c, r"link=codec"), "a codec that does not pay")
    walkers.verdict(case, c, s, 30)


def in_and_out(case, lab):
    """1 Gbit/s, then 10 Mbit/s, then 1 Gbit/s again."""
    lab.R.shape(lab.B, 1000)
    c, s = flow(lab, TEXT)
    time.sleep(1)
    lab.R.shape(lab.B, 10)
    began = time.monotonic()
    wait_for(lambda: said(c, r"link=codec"), 10, "the codec stage")
    took = time.monotonic() - began
    time.sleep(1)
    slow = goodput(s, 2)
    case.check(slow > 12, f"{slow:.1f} Mbit/s through 10 Mbit/s")
    lab.R.shape(lab.B, 1000)
    time.sleep(3)
    fast = goodput(s, 2)
    case.check(fast > 200, f"only {fast:.0f} Mbit/s when the link is fast again")
    switches = said(c, r" codec (on|off|stored)")
    case.check(switches <= 12, f"{switches} switches")
    case.note(f"in after {took:.2f} s; {slow:.0f} and {fast:.0f} Mbit/s; {switches} switches")
    walkers.verdict(case, c, s, 30)


def broken(case, lab):
    """Cut again and again while it is coded."""
    lab.R.shape(lab.B, 20)
    c, s = flow(lab, TEXT, both=True)
    wait_for(lambda: said(c, r"link=codec"), 10, "the codec stage")
    for i in range(8):
        (lab.A if i % 2 else lab.B).kill_sockets()
        c.wait_bytes(500_000, 15)
        s.wait_bytes(500_000, 15)
    case.check(said(c, r"resumed .*link=codec") >= 4, "resumed without the codec")
    walkers.verdict(case, c, s, 30)


def moved(case, lab):
    """Frozen and thawed while it is coded."""
    lab.R.shape(lab.B, 20)
    c, s = flow(lab, TEXT, both=True)
    wait_for(lambda: said(c, r"link=codec"), 10, "the codec stage")
    for w, other in ((c, s), (s, c), (c, s)):
        w.freeze()
        w.thaw()
        other.wait_bytes(500_000, 15)
    walkers.verdict(case, c, s, 30)


def cases(_args):
    return [
        ("codec: text at 10 Mbit/s, epoll", 60, with_lab(comes, mode="epoll")),
        ("codec: text at 10 Mbit/s, epoll-et", 60, with_lab(comes, mode="epoll-et")),
        ("codec: a blocking copy at 10 Mbit/s", 60, with_lab(copied)),
        ("codec: a blocking copy at 10 Mbit/s, 40 ms", 60, with_lab(copied, delay=0.02)),
        ("codec: sent, closed and gone", 60, with_lab(ended)),
        ("codec: a program is told the bandwidth", 60, with_lab(told)),
        ("codec: noise at 10 Mbit/s is left alone", 60, with_lab(stays_away, mbit=10, seed=NOISE)),
        ("codec: 1 Gbit/s, 10 Mbit/s, 1 Gbit/s", 60, with_lab(in_and_out)),
        ("codec: breaks while coded", 60, with_lab(broken)),
        ("codec: frozen and thawed while coded", 60, with_lab(moved)),
    ]
