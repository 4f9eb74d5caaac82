"""The long ones: a thousand moves and breaks, ten thousand connections, the cost.

Not part of the default run. The numbers are printed with each case; the limits
are those that the project has set itself.
"""
import json
import os
import random
import resource
import subprocess
import time

import agents
import walkers
from cases_breaks import INSTANT_MS
from cases_lab import with_lab
from harness import Fail, Skip, wait_for

STALL_MS = 50           # median, after the network is usable again, plus a round trip
PER_CONNECTION = 8192   # bytes of user memory in the application
TOGETHER = 16384        # ... and in the agent
CONNECT_RATIO = 1.03


class Chaos:
    """Random moves and breaks between two walkers; seeded."""

    def __init__(self, case, lab, c, s):
        self.case, self.lab, self.c, self.s = case, lab, c, s
        self.rng = random.Random(case.seed)
        self.hosts = lab.list()
        self.moments = {}       # (kind, window): times at which it was usable again
        self.fresh = []         # of this step
        self.waited = []        # (seconds until bytes flowed again, step)
        self.history = []

    def usable(self, kind, window_ms=0):
        self.fresh.append((kind, window_ms, time.monotonic_ns()))

    def outage(self):
        """How long something stays broken: up to 100 ms, until bytes are missed."""
        end = time.monotonic() + self.rng.random() * 0.1
        wait_for(lambda: time.monotonic() >= end, 5, "the outage")

    def other(self, host):
        return self.rng.choice([h for h in self.hosts if h is not host])

    def move(self, w, kind, to=None):
        to = to or self.other(w.host)
        self.history[-1] += f" {w.host.name}->{to.name}"
        w.freeze()
        w.walk(to)
        self.usable(kind)
        w.thaw()

    def do_client_moves(self):
        self.move(self.c, "move")

    def do_server_moves(self):
        self.move(self.s, "move")

    def do_both_move(self):
        to = self.other(self.c.host), self.other(self.s.host)
        for w in (self.c, self.s):
            w.freeze()
        for w, h in zip((self.c, self.s), to):
            w.walk(h)
        self.c.thaw()
        self.usable("move of both")
        self.s.thaw()

    def do_kill_sockets(self):
        h = self.rng.choice((self.c, self.s)).host
        self.usable("ss -K", INSTANT_MS)
        h.kill_sockets()

    def do_cable(self):
        h = self.rng.choice((self.c, self.s)).host
        self.lab.R.pull(h)
        self.outage()
        self.usable("cable")
        self.lab.R.plug(h)

    def do_link(self):
        h = self.rng.choice((self.c, self.s)).host
        h.link_down()
        self.outage()
        self.usable("link")
        h.link_up()

    def do_resets(self):
        if self.c.host is self.s.host:
            return
        self.lab.R.reset(self.c.host, self.s.host)
        self.outage()
        self.usable("resets")
        self.lab.R.open()

    def do_silence(self):
        if self.c.host is self.s.host:
            return
        self.lab.R.drop(self.c.host, self.s.host, both=self.rng.random() < 0.5)
        self.outage()
        self.usable("silence")
        self.lab.R.open()

    def do_forget(self):
        self.usable("forgotten state", INSTANT_MS)
        self.lab.R.forget()

    def do_new_address(self):
        """Of A only: agents are configured with each other's addresses, and two that
        both got new ones while they could not talk have nobody to ask."""
        h = self.lab.A
        if h not in (self.c.host, self.s.host):
            self.move(self.rng.choice((self.c, self.s)), "move", h)
        new = f"10.0.{h.number}.{self.rng.randrange(10, 250)}"
        self.usable("new address", INSTANT_MS)
        h.readdress(h.addr, new)
        h.addr = new

    def do_agent(self):
        h = self.rng.choice(self.hosts)
        h.agent.restart(hard=True)

    STEPS = ([do_client_moves] * 4 + [do_server_moves] * 4 + [do_both_move] * 2 +
             [do_kill_sockets] * 3 + [do_cable, do_link, do_resets, do_silence, do_forget,
                                      do_new_address])

    def step(self):
        fn = self.rng.choice(self.STEPS)
        self.history.append(fn.__name__[3:])
        fn(self)
        if self.rng.random() < 0.75:
            self.flow()
            for kind, window_ms, t in self.fresh:
                self.moments.setdefault((kind, window_ms), []).append(t)
        # else the next one falls into the repair: that was no end of an outage
        self.fresh.clear()

    def flow(self):
        began = time.monotonic()
        try:
            for w in (self.c, self.s):
                w.wait_bytes(40_000, 20, "it goes on")
        except Fail as e:
            raise Fail(f"step {len(self.history)}: {e}; the last steps: "
                       f"{', '.join(self.history[-8:])}") from None
        self.waited.append((time.monotonic() - began, len(self.history)))

    def slowest(self, n=6):
        for seconds, step in sorted(self.waited, reverse=True)[:n]:
            print(f"# {seconds:.2f} s after step {step}: "
                  f"{', '.join(self.history[max(0, step - 4):step])}", flush=True)


def thousand(case, lab, count, mode, connections):
    lab.R.stateful()
    agents.start_agents(lab)
    c, s = walkers.pair(lab, lab.A, lab.B, connections=connections,
                        rate=800_000 / connections, mode=mode)
    chaos = Chaos(case, lab, c, s)
    for _ in range(count):
        chaos.step()
    chaos.flow()
    total = 0
    walkers.verdict(case, c, s, 30)
    total = sum(r["sent"] + r["received"] for r in c.results().values())
    everything = []
    for (kind, window_ms), moments in sorted(chaos.moments.items()):
        ms = walkers.stalls((c, s), moments, window_ms)
        everything += ms
        print(f"# {kind}: {len(moments)} times, {walkers.distribution(ms)}", flush=True)
    chaos.slowest()
    print(f"# all: {walkers.distribution(everything)}", flush=True)
    case.note(f"{count} moves and breaks, {total >> 20} MiB byte-exact, "
              f"{walkers.resumed(c, s)} resumed; {walkers.distribution(everything)}")
    case.check(walkers.statistics.median(everything) <= STALL_MS + 1,
               f"the median stall is over {STALL_MS} ms")


def files(count):
    """Room for that many connections, as far as this host allows it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < count + 200:
        raise Skip(f"at most {hard} descriptors a process")
    return min(hard, 2 * count + 1000) if hard != resource.RLIM_INFINITY else 2 * count + 1000


def idle_memory(case, lab, count, roam):
    """Bytes that `count` idle connections take: (application, agent, persistent ones)."""
    how = dict(roam=roam, nofile=files(count), sampled=False)
    s = walkers.server(lab, lab.B, port=4000 + roam, **how)
    watched = s.proc, lab.B.agent.proc
    before = [p.memory() for p in watched]
    c = walkers.client(lab, lab.A, s, connections=count, args=["-p", 200, "-w", 50],
                       chunk=64, **how)
    c.proc.expect(rf"^quiet {count}", 500)
    last = [0]

    def still():
        """What is warm from the ramp cools down: until it stands still."""
        now = sum(p.memory() for p in watched)
        same = abs(now - last[0]) < 65536
        last[0] = now
        rest(0 if same else 1)
        return same
    rest(2)
    wait_for(still, 60, "the memory to stand still")
    after = [p.memory() for p in watched]
    live = s.upgraded()
    walkers.verdict(case, c, s, 120)
    s.proc.stop()
    return after[0] - before[0], after[1] - before[1], live


def idle(case, lab, count):
    """Memory of idle connections: application and agent, less what a plain one takes.

    A connection that was quiet before its offer was seen stays plain: lazy."""
    agents.start_agents(lab, how=dict(nofile=files(count)))
    own = idle_memory(case, lab, count, False)[0] / count
    app, agent, live = idle_memory(case, lab, count, True)
    case.check(live >= count * 0.9, f"only {live} of {count} are persistent")
    app, agent = (app - own * count) / live, agent / live
    case.note(f"{live} of {count} persistent and idle: {app:.0f} bytes each in the application "
              f"(besides its own {own:.0f}), {agent:.0f} in the agent, {app + agent:.0f} together")
    case.check(app <= PER_CONNECTION, f"over {PER_CONNECTION} in the application")
    case.check(app + agent <= TOGETHER, f"over {TOGETHER} together")


def rest(seconds):
    """The one place where time itself is the fact that is waited for."""
    end = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() >= end, seconds + 1, "rest")


class Knocker:
    def __init__(self, lab, host, to, roam):
        self.proc = lab.spawn(host, [walkers.program(lab, "knock", roam), "-c", to],
                              label=f"knock-{'roam' if roam else 'raw'}",
                              stdin=subprocess.PIPE)
        self.read = 0

    def ask(self, n, exchanges):
        self.proc.popen.stdin.write(f"{n} {exchanges}\n".encode())
        self.proc.popen.stdin.flush()
        line = wait_for(self._line, 30, "its times")
        return json.loads(line)

    def _line(self):
        with open(self.proc.paths[0]) as f:
            f.seek(self.read)
            line = f.readline()
        if not line.endswith("\n"):
            return None
        self.read += len(line)
        return line


def connect_cost(case, lab, exchanges, with_agent, rounds=400, n=25):
    """connect() to a host without an agent, re-linked and raw, in turn: a few
    connections each, so that what else the machine does falls on both."""
    if with_agent:
        lab.A.start_agent(discovery__networks="10.0.0.0/8")
    to = f"{lab.B.addr}:4200"
    door = lab.spawn(lab.B, [walkers.program(lab, "knock", False), "-l", to])
    door.expect(r"^listening")
    raw, roam = (Knocker(lab, lab.A, to, r) for r in (False, True))
    # Placement matters more than what is measured: one CPU for each side.
    cpus = sorted(os.sched_getaffinity(0))
    for p, cpu in ((door, cpus[-1]), (raw.proc, cpus[0]), (roam.proc, cpus[0])):
        os.sched_setaffinity(p.pid, {cpu})
    for k in (raw, roam):
        k.ask(200, exchanges)       # warm
    times = {"connect": ([], []), "whole": ([], [])}
    for i in range(rounds):
        pairs = [(0, raw), (1, roam)]
        for j, k in pairs if i % 2 else reversed(pairs):
            r = k.ask(n, exchanges)
            times["connect"][j].append(r["median_us"])
            times["whole"][j].append(r["whole_us"])
    med = walkers.statistics.median
    ratios = {}
    for what, (a, b) in times.items():
        ratios[what] = med(y / x for x, y in zip(a, b))
        case.note(f"{what} raw {med(a):.1f} us, re-linked {med(b):.1f} us, "
                  f"ratio {ratios[what]:.3f}")
    case.check(ratios["connect"] <= CONNECT_RATIO, f"connect() costs over {CONNECT_RATIO}")
    if exchanges:
        case.check(ratios["whole"] <= CONNECT_RATIO,
                   f"a connection of {exchanges} exchanges costs over {CONNECT_RATIO}")


def cases(args):
    n = args.count

    def c(name, fn, limit, hosts="ABCD", **how):
        return (f"scale: {name}", limit, with_lab(fn, hosts, **how))
    return [
        c(f"{n} moves and breaks", thousand, 120 + n, count=n, mode="epoll", connections=4),
        c(f"{max(1, n // 5)} moves and breaks, blocking", thousand, 120 + n,
          count=max(1, n // 5), mode="blocking", connections=1),
        c(f"{args.idle} idle connections", idle, 900, hosts="AB", count=args.idle),
        c("connect to a host without an agent", connect_cost, 120, hosts="AB",
          exchanges=0, with_agent=True),
        c("ten exchanges with a host without an agent", connect_cost, 180, hosts="AB",
          exchanges=10, with_agent=True),
        c("connect, no agent anywhere", connect_cost, 120, hosts="AB",
          exchanges=0, with_agent=False),
    ]
