"""The lab itself, with programs that are not re-linked: is it a network?

What the other groups conclude stands on this: that a pulled cable is silent,
that a reset rule resets, that nothing is left behind.
"""
import os
import signal
import subprocess
import sys
import time

import harness
import walkers
from harness import wait_for
from lab import Lab, need_tools


def with_lab(fn, hosts="ABCD", **how):
    """A case that gets a fresh lab."""
    def run(case):
        with Lab(case, hosts) as lab:
            fn(case, lab, **how)
    return run


def plain(lab, **how):
    return walkers.pair(lab, lab.A, lab.B, roam=False, upgraded=False,
                        server_how=dict(roam=False), **how)


def carries(case, lab, v6, mode):
    c, s = plain(lab, v6=v6, mode=mode)
    c.wait_bytes(200_000)
    s.wait_bytes(200_000)
    verdict = walkers.verdict(case, c, s)
    return verdict


def bounded(case, lab):
    """Streams of given and unequal length: one direction ends first."""
    s = walkers.server(lab, lab.B, roam=False, n=3)
    c = walkers.client(lab, lab.A, s, connections=3, bytes=300_000, back=1_000_000,
                       roam=False)
    c.proc.succeed(20)
    s.proc.succeed(20)
    walkers.check_results(case, c, s)
    case.check(all(r["sent"] == 300_000 and r["received"] == 1_000_000
                   for r in c.results().values()), "other lengths than asked for")


def quiet(case, lab):
    """Ping-pong, then silence, then one more."""
    s = walkers.server(lab, lab.B, roam=False, sampled=False)
    c = walkers.client(lab, lab.A, s, connections=50, args=["-p", 20], chunk=64,
                       roam=False, sampled=False)
    c.proc.expect(r"^quiet 50", 10)
    walkers.verdict(case, c, s)
    case.check(all(r["sent"] == 21 * 64 for r in c.results().values()),
               "not 21 messages on each")


def break_and_heal(case, lab, how):
    c, s = plain(lab)
    s.wait_bytes(100_000)
    r = lab.R
    undo = {
        "cable": lambda: (r.pull(lab.A), lambda: r.plug(lab.A)),
        "drop": lambda: (r.drop(lab.A, lab.B), r.open),
        "one way": lambda: (r.drop(lab.A, lab.B, both=False), r.open),
        "link": lambda: (lab.B.link_down(), lab.B.link_up),
    }[how]()[1]
    silent(case, s if how == "one way" else c)
    undo()
    # plain TCP waits for its timer
    s.wait_bytes(100_000, 10, "it goes on")
    c.wait_bytes(100_000, 10, "it goes on")
    walkers.verdict(case, c, s)


QUIET = 0.1     # seconds without a byte: longer than any pause of a stream that flows


def silent(case, w):
    """Nothing comes in any more (what was under way has come by then)."""
    last = [w.received(), time.monotonic()]

    def settled():
        now = w.received()
        if now != last[0]:
            last[:] = now, time.monotonic()
        return time.monotonic() - last[1] >= QUIET
    wait_for(settled, 5, f"{w.proc.label} to receive nothing")


def ended_by(case, lab, how, errors):
    c, s = plain(lab)
    s.wait_bytes(100_000)
    if how == "reset":
        lab.R.reset(lab.A, lab.B)
    elif how == "ss -K":
        lab.A.kill_sockets()
    elif how == "kill -9":
        s.proc.kill()
    wait_for(lambda: not c.proc.alive(), 5, "the client to end")
    found = {r["error"] for r in c.results().values()}
    case.check(found & errors, f"the client saw {found}, not one of {errors}")


def forgotten(case, lab):
    """A firewall that has forgotten a connection drops it, and lets new ones in."""
    lab.R.stateful()
    c, s = plain(lab)
    s.wait_bytes(100_000)
    lab.R.forget()
    silent(case, s)
    c2 = walkers.client(lab, lab.A, s, bytes=10_000, back=10_000, roam=False, seed=9)
    c2.proc.succeed(5)


def rebooted(case, lab):
    c, s = plain(lab)
    s.wait_bytes(100_000)
    lab.R.reboot([lab.A, lab.B], lambda: silent(case, c))
    c.wait_bytes(100_000, 10, "it goes on after the reboot")
    walkers.verdict(case, c, s)


def readdressed(case, lab):
    """Without roam a connection does not survive a new address."""
    c, s = plain(lab)
    s.wait_bytes(100_000)
    lab.A.readdress(lab.A.addr, "10.0.1.77")
    silent(case, s)
    s2 = walkers.client(lab, lab.A, s, bytes=1000, back=1000, roam=False, seed=9)
    s2.proc.succeed(5)


def translated(case, lab):
    lab.R.masquerade(lab.A)
    c, s = plain(lab)
    s.wait_bytes(10_000)
    seen = lab.B.run(["ss", "-tnH"])
    case.check(lab.B.gate in seen and lab.A.addr not in seen,
               f"the server sees {seen!r}, not the router's address")
    walkers.verdict(case, c, s)


def walks(case, lab):
    """The program enters another namespace; new sockets are there, old ones stay."""
    c, s = plain(lab)
    s.walk(lab.C)
    case.check(os.stat(f"/proc/{s.proc.pid}/ns/net").st_ino == lab.C.inode,
               "it is not there")
    c.wait_bytes(100_000, what="the old sockets work on")
    walkers.verdict(case, c, s)


def twin_cables(case, lab):
    a, b = lab.join(lab.A, lab.B)
    s = walkers.server(lab, lab.B, at=b, roam=False)
    c = walkers.client(lab, lab.A, s, bytes=50_000, back=50_000, roam=False)
    c.proc.succeed(5)
    walkers.check_results(case, c, s)


CHILD = """
import sys, signal
sys.path[:0] = {path!r}
import harness, lab
class Case(harness.Case):
    pass
signal.signal(signal.SIGTERM, harness._terminate)
case = Case(harness.Config(None, 1))
with lab.Lab(case, "AB") as l:
    p = l.A.spawn(["sleep", "100"])
    print(*(h.holder.pid for h in l.hosts.values()), p.pid, flush=True)
    signal.pause()
"""


def gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def tidy(case, sig):
    """Nothing is left, however the program ends."""
    need_tools()
    here = os.path.dirname(os.path.abspath(__file__))
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(path=[here, here + "/../support"])],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        pids = [int(x) for x in child.stdout.readline().split()]
        case.check(len(pids) == 4, "the lab did not start")
        child.send_signal(sig)
        child.wait(10 * harness.SCALE)
        wait_for(lambda: all(gone(p) for p in pids), 5, f"{pids} to be gone")
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        child.stdout.close()


def cases(_args):
    def c(name, fn, limit=20, **how):
        return (f"the lab: {name}", limit, with_lab(fn, **how))
    out = []
    for v6 in (False, True):
        for mode in ("epoll", "epoll-et", "blocking"):
            out.append(c(f"IPv{6 if v6 else 4}, {mode}", carries, v6=v6, mode=mode))
    out += [c("streams of given length", bounded),
            c("ping-pong, then silence", quiet)]
    out += [c(f"broken and healed: {how}", break_and_heal, how=how)
            for how in ("cable", "drop", "one way", "link")]
    out += [c("ended by a reset rule", ended_by, how="reset", errors={"ECONNRESET", "EPIPE"}),
            c("ended by ss -K", ended_by, how="ss -K",
              errors={"ECONNABORTED", "ECONNRESET", "EPIPE"}),
            # None: it had read all that had come, so its kernel said FIN.
            c("ended by kill -9", ended_by, how="kill -9",
              errors={"ECONNRESET", "EPIPE", None}),
            c("a firewall forgets", forgotten),
            c("the router reboots", rebooted),
            c("another address", readdressed),
            c("address translation", translated),
            c("a program walks to another host", walks),
            c("a second cable", twin_cables)]
    out += [(f"the lab: nothing is left after {sig.name}", 30,
             lambda case, sig=sig: tidy(case, sig))
            for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)]
    return out
