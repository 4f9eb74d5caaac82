"""
A break or a move: how long until all bytes are there again, and how many are sent again?

In flight: the client has sent X bytes that nobody reads yet, the server's receive
buffer is 64 KiB, and the rest waits in the client's kernel. Then the client's socket is
destroyed, and the server told to read. Many: N connections lose their
sockets at once, or the process that holds them moves to another host.
"""

import re
import time

import harness
import walkers
from engine import Key
from pairs import BenchError
from places import Lab, agents
from sockets import Destroyer

NAME = "resume"
PLACES = ("lo", "veth")
FLIGHT = (64, 65536, 262144, 1 << 20, 4 << 20)
CONNECTIONS = (1, 10, 100, 1000)
MOVED = (1, 10, 100, 300)
RECEIVE = 65536
ROOM = 8 << 20              # what a kernel keeps for a sender; with 16 MiB a connection is not upgraded
EXCHANGES = 48


def connections(o, every):
    return [n for n in every if n <= min(o.connections, 100 if o.quick else 1000)]


def flight(o):
    return FLIGHT[::2] if o.quick else FLIGHT


def plan(o):
    for place in PLACES:
        for n in flight(o):
            for what in ("time", "resent"):
                yield Key(NAME, what, place, "", "flight", n), ("thin",)
        for n in connections(o, CONNECTIONS):
            yield Key(NAME, "time", place, "", "connections", n), ("thin",)
    for n in connections(o, MOVED):
        for what in ("freeze", "time"):
            yield Key(NAME, what, "routed", "", "moved", n), ("thin",)


def destroy(bench, place, pid, least):
    """Ends the client's sockets; when that began (ns)."""
    host = bench.field.places[place].hosts[1]

    def look():
        return Destroyer(pid)
    d = host.do(look)
    began = time.monotonic_ns()
    if d.destroy() < least:
        raise BenchError("only %d sockets of %d were there to be destroyed" % (len(d.idents), least))
    return began


def in_flight(bench, place, n):
    """One break: ms until the last byte was read, and the bytes that were sent again."""
    pair = bench.pair("thin", place, flags=(("-B", str(RECEIVE)), ()))
    try:
        pair.connect()
        pair.settle()
        pair.client.ask("push %d" % n)
        began = destroy(bench, place, pair.client.pid, 1)
        end = int(pair.server.ask("pull %d" % n)[4])
        pair.slice("pingpong", 64, 0, 0, 1000)      # who only waits need not have noticed yet
        if not pair.client.lines(" resumed "):
            raise BenchError("%s, %d bytes in flight: not resumed; it said: %s" % (place, n, pair.client.err()[-300:]))
        sent = [int(m) for m in re.findall(r" resumed .*resent=(\d+)", pair.client.err())]
        return (end - began) / 1e6, sum(sent)
    finally:
        pair.end()


def many(bench, place, counts):
    """All at once: ms until each has carried a message there and back."""
    pair = bench.pair("thin", place)
    try:
        pair.aim()
        have = 0
        for n in counts:
            pair.both("many-server 64 0", "dial %d %d" % (n - have, EXCHANGES), 300)
            have = n
            deadline = time.monotonic() + 15        # between hosts agents are asked first
            while min(node.lines(" upgraded ") for node in pair.nodes) < n and time.monotonic() < deadline:
                pair.both("many-server 64 0", "sweep 64 0 0 20000 1")
            if min(node.lines(" upgraded ") for node in pair.nodes) < n:
                raise BenchError("%s: not all of %d connections are upgraded" % (place, n))
            began = destroy(bench, place, pair.client.pid, n)
            _, c = pair.both("many-server 64 0", "sweep 64 0 0 0 1")
            yield n, (c.now - began) / 1e6
    finally:
        pair.end()


def moved(bench, n):
    """A server with n connections is frozen, goes to another host and is thawed."""
    with Lab(bench.field.case, "ABC") as lab:
        how = dict(nofile=max(4096, 16 * n), chunk=256)     # small ones: a connection is upgraded after some calls
        agents.start_agents(lab, how=dict(nofile=how["nofile"]))
        c, s = walkers.pair(lab, lab.A, lab.B, connections=n, rate=max(4000, min(200_000, 2_000_000 // n)),
                            upgraded=False, server_how=how, **how)
        for w in (c, s):
            w.wait_upgraded(n, 60)
        c.wait_bytes(n * 100)
        began = time.monotonic_ns()
        s.freeze()
        frozen = time.monotonic_ns()
        s.walk(lab.C)
        usable = time.monotonic_ns()
        s.thaw()

        def all_moved():
            return len(s.proc.connections("resumed")) >= n
        harness.wait_for(all_moved, 30, "all connections to be on the new host")
        c.wait_bytes(n * 100, 20)
        walkers.verdict(bench.field.case, c, s, 30)
        stalls = walkers.stalls((c, s), [usable])
        return (frozen - began) / 1e6, max(stalls)


def run(bench):
    if bench.field.why:
        bench.skip(NAME, None, None, bench.field.why)
        return
    o = bench.o
    for host in bench.field.lab.list():         # a sender's kernel takes all of it
        host.sysctl(net__ipv4__tcp_wmem="4096 %d %d" % (ROOM, ROOM))
    for r in range(o.rounds):
        for place in PLACES:
            for n in flight(o):
                ms, sent = in_flight(bench, place, n)
                bench.keep(Key(NAME, "time", place, "", "flight", n), "thin", ms)
                bench.keep(Key(NAME, "resent", place, "", "flight", n), "thin", sent)
            for n, ms in many(bench, place, connections(o, CONNECTIONS)):
                bench.keep(Key(NAME, "time", place, "", "connections", n), "thin", ms)
        for n in connections(o, MOVED):
            if n > 100 and r:                 # once
                continue
            freeze, ms = moved(bench, n)
            bench.keep(Key(NAME, "freeze", "routed", "", "moved", n), "thin", freeze)
            bench.keep(Key(NAME, "time", "routed", "", "moved", n), "thin", ms)
        bench.say("resume: round %d of %d" % (r + 1, o.rounds))
    for host in bench.field.lab.list():
        host.sysctl(net__ipv4__tcp_wmem="4096 16384 4194304")
