"""Thin migration: ends move from host to host, their connections follow."""
import time

import agents
import walkers
from cases_breaks import AFTER, note_stalls
from cases_lab import silent, with_lab
from walkers import pair, verdict


def flowing(pair_, more=200_000):
    for w in pair_:
        w.wait_bytes(more, AFTER, "it goes on after the move")


def started(lab, connections=3, rate=600_000, **how):
    agents.start_agents(lab)
    return pair(lab, lab.A, lab.B, connections=connections, rate=rate, **how)


def ended(case, c, s):
    for w in (c, s):
        case.check(not w.proc.events("ended"),
                   f"{w.proc.label} gave up: {w.proc.events('ended')}")
    verdict(case, c, s)


def server_moves(case, lab, mode="epoll", v6=False, connections=3):
    c, s = started(lab, mode=mode, v6=v6, connections=connections)
    s.freeze()
    silent(case, c)
    s.walk(lab.C)
    moment = time.monotonic_ns()
    s.thaw()
    flowing((c, s))
    note_stalls(case, (c, s), [moment])
    lab.B.link_down()       # it needs the old host no more
    flowing((c, s))
    ended(case, c, s)
    case.check(walkers.resumed(c) >= connections, "the client resumed nothing")


def client_moves(case, lab):
    c, s = started(lab)
    c.move(lab.D)
    flowing((c, s))
    lab.A.link_down()
    flowing((c, s))
    ended(case, c, s)


def both_move(case, lab, frozen_together):
    c, s = started(lab)
    if frozen_together:
        for step in ("freeze", "walk", "thaw"):
            for w, to in ((c, lab.D), (s, lab.C)):
                if step == "walk":
                    w.walk(to)
                else:
                    getattr(w, step)()
    else:
        s.move(lab.C)
        c.move(lab.D)
    flowing((c, s))
    ended(case, c, s)


def in_a_row(case, lab, times=10):
    """Without waiting for bytes in between."""
    c, s = started(lab)
    route = [lab.C, lab.D, lab.B]
    for i in range(times):
        s.move(route[i % 3])
    flowing((c, s))
    case.note(f"{walkers.resumed(c, s)} resumed")
    ended(case, c, s)


def to_and_fro(case, lab):
    """Back to the old host: what it remembers must not be in the way."""
    c, s = started(lab)
    for to in (lab.C, lab.B, lab.C, lab.B):
        s.move(to)
        flowing((c, s))
    ended(case, c, s)


def old_agent_back(case, lab):
    """The agent of the old host was away during the move, and comes back."""
    c, s = started(lab)
    s.freeze()
    lab.B.agent.kill()
    s.walk(lab.C)
    s.thaw()
    flowing((c, s))
    lab.B.agent.start()
    s.move(lab.B)
    flowing((c, s))
    ended(case, c, s)


def in_break(case, lab, heal_first):
    """The network between the client and both hosts is dead while it moves."""
    c, s = started(lab)
    lab.R.pull(lab.A)
    silent(case, c)
    s.freeze()
    s.walk(lab.C)
    if heal_first:
        lab.R.plug(lab.A)
        s.thaw()
    else:
        s.thaw()
        lab.R.plug(lab.A)
    flowing((c, s))
    ended(case, c, s)


def in_handover(case, lab):
    """A break, and the move begins before it is mended."""
    c, s = started(lab)
    for to in (lab.C, lab.D, lab.B):
        lab.A.kill_sockets()
        s.host.kill_sockets()
        s.move(to)
    flowing((c, s))
    ended(case, c, s)


def agent_dies(case, lab, whose):
    c, s = started(lab)
    victim = {"old": lab.B, "new": lab.C, "peer": lab.A}[whose]
    s.freeze()
    victim.agent.kill()
    s.walk(lab.C)
    if whose == "new":
        # nobody to thaw through: it comes back first
        victim.agent.start()
        s.thaw()
    else:
        s.thaw()
        victim.agent.start()
    flowing((c, s))
    ended(case, c, s)


def to_one_host(case, lab):
    """The server moves to the client's host, and away again."""
    c, s = started(lab)
    s.move(lab.A)
    flowing((c, s))
    s.move(lab.C)
    flowing((c, s))
    ended(case, c, s)


def from_one_host(case, lab):
    """Two ends that met on one host, without agents' help, are torn apart."""
    agents.start_agents(lab)
    c, s = pair(lab, lab.A, lab.A, connections=2, rate=600_000)
    s.move(lab.B)
    flowing((c, s))
    ended(case, c, s)


def frozen_long(case, lab):
    """The peer waits; its program sees nothing but a slow network."""
    c, s = started(lab)
    s.freeze()
    silent(case, c)
    case.check(c.proc.alive() and not c.results(), "the client was told of it")
    s.thaw()        # on the same host
    flowing((c, s))
    ended(case, c, s)


def idle_moves(case, lab):
    agents.start_agents(lab)
    s = walkers.server(lab, lab.B, sampled=False)
    c = walkers.client(lab, lab.A, s, connections=20, args=["-p", 40], chunk=64,
                       sampled=False)
    c.proc.expect(r"^quiet 20", 15)
    c.wait_upgraded(20)
    s.wait_upgraded(20)
    s.move(lab.C)
    c.move(lab.D)
    verdict(case, c, s)


def killed_frozen(case, lab):
    """A frozen program that is killed has not moved; its peer must not wait for ever."""
    c, s = started(lab, connections=1)
    s.freeze()
    s.proc.kill()
    case.check(c.proc.alive(), "the client has ended")
    case.note("the peer of a killed frozen program: still waits")


def half_closed_moves(case, lab):
    agents.start_agents(lab)
    s = walkers.server(lab, lab.B, rate=1_000_000)
    c = walkers.client(lab, lab.A, s, bytes=300_000, back=4_000_000, rate=1_000_000)
    c.wait_upgraded()
    s.wait_upgraded()
    walkers.wait_for(lambda: s.received() >= 300_000, 10, "the client's end")
    s.move(lab.C)
    c.move(lab.D)
    c.proc.succeed(20)
    walkers.check_results(case, c, s)


def cases(_args):
    def c(name, fn, limit=40, hosts="ABCD", **how):
        return (f"move: {name}", limit, with_lab(fn, hosts, **how))
    out = [c(f"the server, {m}", server_moves, mode=m, connections=n)
           for m, n in (("epoll", 3), ("epoll-et", 3), ("blocking", 1))]
    out += [
        c("the server, IPv6", server_moves, v6=True),
        c("the server, 40 connections", server_moves, connections=40),
        c("the client", client_moves),
        c("one after the other", both_move, frozen_together=False),
        c("both at once", both_move, frozen_together=True),
        c("ten in a row", in_a_row),
        c("to and fro", to_and_fro),
        c("the old host's agent is back again", old_agent_back),
        c("during a break, healed before the thaw", in_break, heal_first=True),
        c("during a break, healed after the thaw", in_break, heal_first=False),
        c("during a handover", in_handover),
        c("the old agent is killed", agent_dies, whose="old"),
        c("the new agent is killed", agent_dies, whose="new"),
        c("the peer's agent is killed", agent_dies, whose="peer"),
        c("to the peer's host and away", to_one_host),
        c("away from the peer's host", from_one_host),
        c("frozen and thawed in place", frozen_long),
        c("idle connections, both ends", idle_moves),
        c("half closed, both ends", half_closed_moves),
        c("killed while frozen", killed_frozen),
    ]
    return out
