"""Two network namespaces of one host: the ends meet through their agents, and go on a ring.

In this group a link may be a ring (ROAM_LINK), in all others it may not: else
every "host" of the lab would be found out to be the same one.
"""
import os
import re
import shutil
import signal
import socket

import agents
import cases_park
import forge
import walkers
from cases_lab import with_lab
from harness import Fail, Skip, wait_for
from walkers import pair, verdict

NOBODY = 65534
AFTER = 10


def rings(w):
    return len(re.findall(r" (?:moved|resumed) .*link=ring$", w.proc.err(), re.M))


def wait_rings(n, *ws):
    for w in ws:
        wait_for(lambda w=w: rings(w) >= n or not w.proc.alive(), AFTER,
                 f"{n} rings in {w.proc.label} (there are {rings(w)})")
        if rings(w) < n:
            raise Fail(f"{w.proc.label} ended before it was on a ring")


def links(w):
    return [c.get("link") for c in agents.connections(w.host, w.proc.pid)]


def may_ring(case, **changes):
    return case.environ(**{"ROAM_LINK": None, **changes})


def started(lab, connections=2, rate=2_000_000, env=None, **how):
    """A pair between A and B, on rings."""
    agents.start_agents(lab)
    env = env or may_ring(lab.case)
    c, s = pair(lab, lab.A, lab.B, connections=connections, rate=rate, env=env,
                server_how=dict(env=env), **how)
    wait_rings(connections, c, s)
    return c, s


def flowing(*ws, more=200_000):
    for w in ws:
        w.wait_bytes(more, AFTER, "it goes on")


def ended(case, c, s):
    for w in (c, s):
        case.check(not w.proc.events("ended"), f"{w.proc.label} gave up: {w.proc.events('ended')}")
    verdict(case, c, s)


def kill_bases(lab):
    """In whatever namespace they are."""
    lab.A.kill_sockets()
    lab.B.kill_sockets()


def to_ring(case, lab, **how):
    c, s = started(lab, **how)
    for w in (c, s):
        case.check(set(links(w)) == {"ring"}, f"roamctl says {links(w)} of {w.proc.label}")
        case.check(len(w.proc.events("moved")) == len(w.proc.connections("upgraded")),
                   f"{w.proc.label} moved {w.proc.events('moved')}")
    flowing(c, s)
    ended(case, c, s)


def by_itself(case, lab):
    """The cables are of no use to it any more."""
    c, s = started(lab)
    lab.A.link_down()
    lab.B.link_down()
    flowing(c, s, more=1_000_000)
    lab.A.link_up()
    lab.B.link_up()
    ended(case, c, s)


def breaks(case, lab, times=6):
    """The base links (over the loopback of who asked last) are aborted, with and without agents."""
    c, s = started(lab)
    for i in range(times):
        before = rings(c), rings(s)
        kill_bases(lab)
        # a base that nobody sleeps on is only missed when there is something to say
        for w, n in zip((c, s), before):
            wait_for(lambda w=w, n=n: rings(w) > n, AFTER, f"a new ring in {w.proc.label}")
        flowing(c, s)
        if i == times // 2:
            lab.A.agent.kill()
            lab.B.agent.kill()
    case.note(f"{walkers.resumed(c, s)} resumed")
    ended(case, c, s)


def restarted(case, lab, hard):
    """The agents come and go; what they introduced does not care."""
    c, s = started(lab)
    for h in (lab.A, lab.B):
        h.agent.restart(hard=hard)
    flowing(c, s)
    for w in (c, s):
        wait_for(lambda w=w: links(w) == ["ring"] * 2, 5, f"the agent to list {w.proc.label}")
    kill_bases(lab)
    wait_rings(3, c, s)
    flowing(c, s)
    ended(case, c, s)


def moves(case, lab, which, back=False):
    """Off the ring, and on through the agents; the old host is not needed."""
    c, s = started(lab)
    for w, to, old in ((s, lab.C, lab.B), (c, lab.D, lab.A)):
        if w.proc.label.split("-")[2] not in which:
            continue
        w.move(to)
        flowing(c, s)
        old.link_down()
        flowing(c, s)
        case.check(set(links(w)) == {"tcp"}, f"roamctl says {links(w)} after the move")
        if back:
            old.link_up()
            w.move(old)
            flowing(c, s)
    ended(case, c, s)


def in_a_row(case, lab, times=6):
    c, s = started(lab)
    route = [lab.C, lab.D, lab.B]
    for i in range(times):
        s.move(route[i % 3])
    flowing(c, s)
    case.note(f"{walkers.resumed(c, s)} resumed")
    ended(case, c, s)


def in_break(case, lab):
    """The base is aborted, and the server moves at once."""
    c, s = started(lab)
    kill_bases(lab)
    s.move(lab.C)
    flowing(c, s)
    ended(case, c, s)


def frozen_here(case, lab):
    c, s = started(lab)
    before = rings(c)
    s.freeze()
    case.check(c.proc.alive() and not c.results(), "the client was told of it")
    s.thaw()
    flowing(c, s)
    wait_for(lambda: rings(c) >= before + 2, AFTER, "rings again")
    ended(case, c, s)


def killed(case, lab, agent_too):
    c, s = started(lab)
    if agent_too:
        lab.B.agent.kill()
    s.proc.kill()
    wait_for(lambda: not c.proc.alive(), 8 if agent_too else 3, "the client to end")
    found = {r["error"] for r in c.results().values()}
    case.note(f"the client saw {', '.join(map(str, found))}")
    case.check(found, "the client reports nothing")


def parked(case, lab, route):
    """What is parked was on rings; the next instance's are new ones, and far."""
    cases_park.replaced(case, lab, route, clients=5, ready=lambda c: wait_rings(5, c), ROAM_LINK=None)


def half_closed(case, lab):
    agents.start_agents(lab)
    env = may_ring(case)
    s = walkers.server(lab, lab.B, rate=2_000_000, env=env)
    c = walkers.client(lab, lab.A, s, bytes=300_000, back=4_000_000, rate=2_000_000, env=env)
    wait_rings(1, c, s)
    wait_for(lambda: s.received() >= 300_000, 10, "the client's end")
    c.proc.succeed(20)
    walkers.check_results(case, c, s)


def many_short(case, lab):
    """Ends that close while they look for each other."""
    agents.start_agents(lab)
    env = may_ring(case, ROAM_LINK="ring")
    s = walkers.server(lab, lab.B, rate=2_000_000, env=env)
    for i in range(12):
        c = walkers.client(lab, lab.A, s, connections=4, bytes=20_000 + 60_000 * i, back=20_000 + 60_000 * i,
                           seed=1 + 10 * i, rate=2_000_000, env=env)
        c.proc.succeed(20)
    case.note(f"{rings(s)} of 48 on a ring")
    bad = [r for r in s.results().values() if r["error"] or not r["ended"]]
    case.check(len(s.results()) == 48 and not bad, f"{len(s.results())} of 48 ended; {bad}")
    case.check(rings(s) > 5, "hardly one was on a ring")


# ---- it is not for everybody

def stays_tcp(case, lab, c, s):
    c.wait_upgraded()
    s.wait_upgraded()
    flowing(c, s, more=1_500_000)
    for w in (c, s):
        case.check(not rings(w) and links(w) == ["tcp"], f"{w.proc.label}: {links(w)}")


def not_wanted(case, lab, whose):
    agents.start_agents(lab, [lab.A, lab.B])
    env = {w: may_ring(case, ROAM_LINK="tcp" if w == whose else None) for w in "cs"}
    c, s = pair(lab, lab.A, lab.B, env=env["c"], server_how=dict(env=env["s"]))
    stays_tcp(case, lab, c, s)
    ended(case, c, s)


def no_loopback(case, lab):
    """New links are made over the loopback of either end."""
    agents.start_agents(lab, [lab.A, lab.B])
    lab.A.ip("link set lo down")
    c, s = pair(lab, lab.A, lab.B, env=may_ring(case), server_how=dict(env=may_ring(case)))
    stays_tcp(case, lab, c, s)
    ended(case, c, s)


def other_directory(case, lab):
    """As in containers that share nothing: the socket is not found."""
    agents.start_agents(lab, [lab.A, lab.B])
    own = os.path.join(case.dir, "elsewhere")
    os.mkdir(own, 0o700)
    # what it needs of its agent is there, its rendezvous socket only here
    for name in os.listdir(lab.roam_dir):
        os.symlink(os.path.join(lab.roam_dir, name), os.path.join(own, name))
    c, s = pair(lab, lab.A, lab.B, env=may_ring(case, ROAM_DIR=own), server_how=dict(env=may_ring(case)))
    stays_tcp(case, lab, c, s)
    ended(case, c, s)


def other_pids(case, lab):
    """The server and its agent are in a pid namespace of their own: their pids say nothing to others."""
    init = lab.spawn(lab.B, ["unshare", "-pf", "--mount-proc", "--kill-child", "sleep", "infinity"])

    def child():
        with open(f"/proc/{init.pid}/task/{init.pid}/children") as f:
            found = f.read().split()
        if not init.alive():
            raise Skip(f"a pid namespace: {init.err().strip()}")
        # before it has become sleep it may not have mounted its /proc
        return found and "sleep" in open(f"/proc/{found[0]}/cmdline").read() and found[0]
    lab.B.prefix = ["nsenter", "-t", wait_for(child, 5, "the pid namespace"), "-p", "-m", "--"]
    agents.start_agents(lab, [lab.A, lab.B])
    c, s = pair(lab, lab.A, lab.B, env=may_ring(case), server_how=dict(env=may_ring(case)))
    c.wait_upgraded()
    s.wait_upgraded()
    flowing(c, s, more=1_500_000)
    case.check(not rings(s) and links(c) == ["tcp"], f"{rings(s)} rings, {links(c)}")
    case.check("another pid namespace" in s.proc.err(), "the server does not say why")
    ended(case, c, s)


def need_users():
    if os.geteuid() != 0:
        raise Skip("needs root")
    with open("/proc/self/uid_map") as f:
        if f.read().split()[2] == "1":
            raise Skip("needs more than one uid in this user namespace")


def other_user(case, lab):
    """The other's socket is even found where it is looked for: the kernel says whose it is."""
    need_users()
    agents.start_agents(lab, [lab.A, lab.B])
    os.chmod(case.dir, 0o711)
    os.chmod(lab.roam_dir, 0o755)
    own = os.path.join(case.dir, "nobody")
    os.mkdir(own, 0o700)
    for name in os.listdir(lab.roam_dir):
        os.symlink(os.path.join(lab.roam_dir, name), os.path.join(own, name))
    os.chown(own, NOBODY, NOBODY)
    s = walkers.server(lab, lab.B, rate=2_000_000, env=may_ring(case))
    # its offer is not passed on before the socket is where it is looked for
    lab.B.agent.proc.signal(signal.SIGSTOP)
    program = os.path.join(case.dir, "walker")
    shutil.copy(walkers.program(lab, "walker"), program)
    env = may_ring(case, ROAM_DIR=own)
    c = lab.spawn(lab.A, [program, "-c", s.at, "-n", 1, "-d", 1, "-r", 2_000_000, "-t", "/nonexistent"],
                  label="walker-nobody", uid=NOBODY, env=env)

    def rendezvous():
        found = [n for n in os.listdir(own) if n.startswith("r.") and n.split(".")[1] == str(c.pid)]
        for n in found:
            os.symlink(os.path.join(own, n), os.path.join(lab.roam_dir, n))
        return found
    wait_for(rendezvous, 10, "the rendezvous socket")
    lab.B.agent.proc.signal(signal.SIGCONT)
    wait_for(lambda: c.connections("upgraded"), 10, "the upgrade")
    wait_for(lambda: "belongs to another user" in s.proc.err(), 5, "the server to look at it")
    s.wait_bytes(1_500_000)
    case.check(not rings(s) and "link=ring" not in c.err(), "another user's process got a ring")


def forged(case, lab):
    """Somebody of our user who knows the GID, but not the key."""
    agents.start_agents(lab, [lab.A, lab.B])
    env = {w: may_ring(case, ROAM_LINK="tcp" if w == "s" else None) for w in "cs"}
    c, s = pair(lab, lab.A, lab.B, env=env["c"], server_how=dict(env=env["s"]))
    gid = bytes.fromhex(agents.connections(lab.A, c.proc.pid)[0]["gid"])
    path = [n for n in os.listdir(lab.roam_dir) if n.startswith(f"r.{c.proc.pid}.")][0]
    said = []
    for flags, g in ((forge.ACCEPTOR, gid), (0, gid), (forge.ACCEPTOR, os.urandom(16))):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as k:
            k.settimeout(5)
            k.connect(os.path.join(lab.roam_dir, path))
            k.send(forge.encode("NEAR", gid=g, nonce=1, flags=flags, pid=os.getpid(), start=1))
            data = k.recv(300)
            said.append(forge.decode(data)[0] if data else "end")
    case.note(f"answers: {said}")
    case.check("NEAR" not in said and said[0] == "end", f"answers: {said}")
    case.check("forged" in c.proc.err(), "it was not said in the log")
    stays_tcp(case, lab, c, s)
    ended(case, c, s)


def cases(_args):
    def c(name, fn, limit=40, hosts="ABCD", **how):
        return (f"near: {name}", limit, with_lab(fn, hosts, **how))
    out = [c(f"a ring, {m}", to_ring, mode=m, connections=n)
           for m, n in (("epoll", 2), ("epoll-et", 2), ("blocking", 1))]
    out += [
        c("a ring, IPv6", to_ring, v6=True),
        c("a ring, 40 connections", to_ring, connections=40, rate=200_000),
        c("the cables go", by_itself),
        c("breaks of the base", breaks),
        c("roamd is killed and comes back", restarted, hard=True),
        c("roamd is restarted", restarted, hard=False),
        c("the server moves to another host", moves, which="B"),
        c("the client moves to another host", moves, which="A"),
        c("both move, one after the other", moves, which="AB"),
        c("the server moves and comes back", moves, which="B", back=True),
        c("moves in a row", in_a_row),
        c("a move in a break", in_break),
        c("frozen and thawed in place", frozen_here),
        c("the server is killed", killed, agent_too=False),
        c("the server and its agent are killed", killed, agent_too=True),
        c("parked, the next instance on the same host", parked, route="BB"),
        c("parked, the next instance on another host", parked, route="BC"),
        c("half closed", half_closed),
        c("short ones", many_short),
        c("not wanted by the client", not_wanted, hosts="AB", whose="c"),
        c("not wanted by the server", not_wanted, hosts="AB", whose="s"),
        c("no loopback in one", no_loopback, hosts="AB"),
        c("another directory", other_directory, hosts="AB"),
        c("another pid namespace", other_pids, hosts="AB"),
        c("another user", other_user, hosts="AB"),
        c("forged", forged, hosts="AB"),
    ]
    return out
