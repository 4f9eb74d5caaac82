"""redis-server and nginx move to another host, or their host changes, under load.

Nobody changes these programs, so somebody else has to carry the process over:
what a checkpointer does with all of it, a debugger does here with the one thing
that counts between namespaces, setns(2). The connections are frozen before and
thawed after, as for any mover. (Restart with ROAM_PARK is for programs that keep
nothing of a connection but the socket: these keep parsers' states.)
"""
import functools
import os
import re
import shutil
import subprocess

import agents
import cases_redis
import servers
import ways
from harness import SCALE, Fail, Skip, wait_for
from lab import Lab

CLIENTS = 20
KIND = "roam"


def carry(pid, host):
    """The process enters another host's network, as it would in a checkpointer's hands."""
    gdb = shutil.which("gdb")
    if not gdb:
        raise Skip("gdb is not installed")
    done = subprocess.run(
        [gdb, "-n", "-q", "-batch", "-p", str(pid),
         "-ex", f'set $fd = ((int (*)(const char *, int))open)("{host.path}", 0)',
         "-ex", "print ((int (*)(int, int))setns)($fd, 0x40000000)",
         "-ex", "print ((int (*)(int))close)($fd)"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60 * SCALE)
    if os.readlink(f"/proc/{pid}/ns/net") != f"net:[{host.inode}]":
        raise Fail(f"gdb could not move {pid}: {done.stderr[-300:]} {done.stdout[-300:]}")


class Moved:
    """A process of a program, and the host where it is; the listener stays where it was made."""

    def __init__(self, lab, host, pid):
        self.lab, self.host, self.pid = lab, host, pid

    def to(self, host):
        def frozen():
            try:
                self.host.ctl("freeze", self.pid)
                return True
            except Fail as e:
                if "gone" not in str(e) and "no-peer" not in str(e):
                    raise
                return False
        wait_for(frozen, 5, f"{self.pid} to be known on {self.host.name}")
        carry(self.pid, host)
        self.host = host
        host.ctl("thaw", self.pid)


def faults(case, lab, who, load, rounds):
    """What can happen to a server and its host while the load runs; how often it did."""
    b = lab.B
    at = [f"10.0.2.{n}" for n in (2, 77)]

    def restart():
        b.agent.restart()
        lab.A.kill_sockets()

    count = 0
    for i in range(rounds):
        for what in (lambda: who.to(lab.C), lambda: who.to(b), lab.A.kill_sockets, restart,
                     lambda: b.readdress(at[i % 2], at[1 - i % 2])):
            known = len(load.events("resumed"))
            what()
            wait_for(lambda: len(load.events("resumed")) > known or not load.alive(), 30, f"{load.label} to go on")
            case.check(load.alive(), f"{load.label} ended before the moves did")
            count += 1
    return count


def redis(case, lab):
    agents.start_agents(lab)
    b = case.config.programs.redis
    s = lab.spawn(lab.B, [b.bin(KIND, "redis-server"), "--port", cases_redis.PORT, "--bind", "0.0.0.0",
                          "--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", case.dir,
                          "--logfile", ""], label="redis-server")
    s.expect("Ready to accept connections", 10)
    n = 4_000_000 if not case.config.full else 12_000_000
    n -= n % (16 * CLIENTS)
    load = lab.spawn(lab.A, [b.bin(KIND, "redis-benchmark"), "-h", lab.B.addr, "-p", cases_redis.PORT,
                             "-c", CLIENTS, "-n", n, "-P", 16, "-t", "incr", "-q"], label="redis-benchmark")
    wait_for(lambda: len(load.connections("upgraded")) >= CLIENTS or not load.alive(), 20, "upgrades")
    case.check(load.alive(), "the benchmark ended before it was upgraded")
    who = Moved(lab, lab.B, s.pid)
    moves = faults(case, lab, who, load, 1 if not case.config.full else 3)
    rate = cases_redis.check_benchmark(case, load, "incr", 120)
    # The listener is where it was made.
    cli = lab.spawn(lab.B, [b.bin("plain", "redis-cli"), "-p", cases_redis.PORT, "GET", "counter:__rand_int__"])
    cli.succeed(10)
    case.check(cli.out().strip() == str(n), f"{cli.out().strip()} increments, not {n}")
    report(case, "redis-server moves, redis-benchmark", load, moves, f"{n} requests", f"{rate / 1000:.0f}k a second")


def nginx(case, lab, what):
    """Without TLS wrk takes EAGAIN after a readiness event for an error."""
    agents.start_agents(lab)
    argv = servers.nginx_argv(case, KIND, "front", servers.FILES, workers=1, addr="0.0.0.0")
    s = lab.spawn(lab.B, argv, label="nginx")
    wait_for(lambda: os.path.exists(f"{case.dir}/front.pid") and children(s.pid) or not s.alive(), 10, "nginx")
    worker = int(children(s.pid)[0])
    seconds = 15 if not case.config.full else 40
    port = servers.TLS if what == "https" else servers.PORT
    load = lab.spawn(lab.A, servers.wrk_argv(case, KIND, f"{what}://{lab.B.addr}:{port}/large", seconds,
                                             f"{case.dir}/www/large"), label="wrk")
    wait_for(lambda: len(load.connections("upgraded")) >= servers.CONNECTIONS or not load.alive(), 10, "upgrades")
    moves = faults(case, lab, Moved(lab, lab.B, worker), load, 1 if not case.config.full else 2)
    rate, volume = servers.check_wrk(case, load, seconds, verify=True)
    good = re.search(r"verified (\d+)", load.out())[1]
    report(case, f"nginx moves, wrk, {what}", load, moves, f"{good} MiB", f"{volume} a second")


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return f.read().split()


def report(case, row, load, moves, work, rate):
    resumed = len(load.events("resumed"))
    case.check(not load.events("ended"), f"gave up: {load.events('ended')[:2]}")
    case.note(f"{moves} moves and breaks, {resumed} resumed, {work}, no error")
    case.config.table.put(row, ways.PERSISTENT.column, f"{moves} moves, no error, {rate}")


def in_lab(fn, case):
    with Lab(case, "ABC") as lab:
        fn(case, lab)


def cases(_args):
    yield "moved: redis-server under redis-benchmark", 150, functools.partial(in_lab, redis)
    for what in ("http", "https"):
        yield f"moved: nginx under wrk, {what}", 150, functools.partial(in_lab, functools.partial(nginx, what=what))
