"""Two hosts: when a connection becomes persistent, and when and why it stays plain."""
import re

import agents
import walkers
from cases_lab import with_lab
from harness import wait_for
from walkers import pair, verdict

# Both ends have made many more calls than they need to look for the other.
ENOUGH = 600_000


def upgrade(case, lab, v6=False, mode="epoll", connections=1):
    agents.start_agents(lab)
    c, s = pair(lab, lab.A, lab.B, v6=v6, mode=mode, connections=connections,
                rate=2_000_000 / connections)
    verdict(case, c, s)
    case.check(c.proc.connections("upgraded") == s.proc.connections("upgraded"),
               "the two ends do not name the same connections")
    for w, role, other in ((c, "opener", lab.B), (s, "acceptor", lab.A)):
        addr = other.addr6 if v6 else other.addr
        for _, rest in w.proc.events("upgraded"):
            case.check(f"role={role}" in rest and addr in rest,
                       f"{w.proc.label} says {rest!r}")


def end_of_all(case, lab):
    """When connections have ended the agents have forgotten them."""
    agents.start_agents(lab, [lab.A, lab.B])
    c, s = pair(lab, lab.A, lab.B, connections=10, rate=200_000)
    case.check(len(agents.connections(lab.A, c.proc.pid)) == 10,
               "roamctl list does not show 10 connections")
    verdict(case, c, s)
    s.proc.stop()
    for h in (lab.A, lab.B):
        wait_for(lambda h=h: not agents.connections(h), 5,
                 f"the agent of {h.name} to have no connections")
    left = [n for n in agents_files(lab) if n.startswith("o.")]
    case.check(not left, f"offers are left: {left}")


def agents_files(lab):
    import os
    return sorted(os.listdir(lab.roam_dir))


def stays_plain(case, lab, agents_on, words, network=True):
    """No agent at one end or at both: plain TCP, not a byte more in the stream."""
    for name in agents_on:
        lab.hosts[name].start_agent(
            discovery__networks="10.0.0.0/8" if network else None)
    c, s = pair(lab, lab.A, lab.B, upgraded=False)
    c.wait_bytes(ENOUGH)
    s.wait_bytes(ENOUGH)
    for name, w in (("A", c), ("B", s)):
        if name in agents_on:
            why = {x.get("reason") for x in
                   agents.connections(lab.hosts[name], w.proc.pid)}
            # A process that has no use for the agent has never spoken to it.
            case.note(f"{name} says {', '.join(map(str, why)) or 'nothing'}")
            case.check(not why or why & words,
                       f"the reason in {name} is {why}, not one of {words}")
    verdict(case, c, s)
    for w in (c, s):
        case.check(not w.upgraded(), f"{w.proc.label} was upgraded")
    if not agents_on or not network:
        n = lab.R.agent_packets()
        case.check(n == 0, f"{n} packets to the agents' port")


def late_agent(case, lab):
    """An agent that comes later: connections made then are upgraded."""
    agents.start_agents(lab, [lab.A])
    c, s = pair(lab, lab.A, lab.B, upgraded=False)
    s.wait_bytes(ENOUGH)
    lab.B.start_agent(discovery__networks="10.0.0.0/8", discovery__peers=lab.A.addr)
    agents.wait_known(lab, lab.A, [lab.B])
    agents.wait_known(lab, lab.B, [lab.A])
    c2 = walkers.client(lab, lab.A, s, rate=2_000_000, seed=77)
    c2.wait_upgraded()
    verdict(case, c2, s)
    c.finish()
    c.proc.succeed(10)


def translated(case, lab):
    """The two ends see different addresses: no agent can introduce them."""
    agents.start_agents(lab, [lab.A, lab.B])
    lab.R.masquerade(lab.A)
    c, s = pair(lab, lab.A, lab.B, upgraded=False)
    s.wait_bytes(ENOUGH)
    c.wait_bytes(ENOUGH)
    wait_for(lambda: "nat" in {x.get("reason") for x in
                               agents.connections(lab.A, c.proc.pid)}, 5,
             "the reason nat in the client")
    verdict(case, c, s)
    case.check(not c.upgraded() and not s.upgraded(), "it was upgraded")


def off(case, lab, who):
    agents.start_agents(lab, [lab.A, lab.B])
    env = case.environ(ROAM="off")
    how = {"client": dict(env=env), "server": dict(server_how=dict(env=env))}[who]
    c, s = pair(lab, lab.A, lab.B, upgraded=False, **how)
    c.wait_bytes(ENOUGH)
    s.wait_bytes(ENOUGH)
    verdict(case, c, s)
    case.check(not c.upgraded() and not s.upgraded(), "it was upgraded")
    quiet = c if who == "client" else s
    case.check("roam[" not in quiet.proc.err(), "the library speaks though it is off")


def plain_peer(case, lab, who):
    """Agents on both hosts, but one program is not re-linked."""
    agents.start_agents(lab, [lab.A, lab.B])
    how = {"client": dict(roam=False), "server": dict(server_how=dict(roam=False))}[who]
    c, s = pair(lab, lab.A, lab.B, upgraded=False, **how)
    c.wait_bytes(ENOUGH)
    s.wait_bytes(ENOUGH)
    verdict(case, c, s)
    case.check(not c.upgraded() and not s.upgraded(), "it was upgraded")


def by_network(case, lab):
    """No static peers: an agent is looked for where the configuration allows it."""
    for h in (lab.A, lab.B):
        h.start_agent(discovery__networks="10.0.0.0/8")
    c, s = pair(lab, lab.A, lab.B, upgraded=False)
    # The first connection may come too early for the answer; it asks again.
    c.wait_upgraded(1, 20)
    verdict(case, c, s)
    case.check(lab.R.agent_packets() > 0, "nobody asked")


def multicast(case, lab):
    a, b = lab.join(lab.A, lab.B)
    for h, dev in ((lab.A, "xB"), (lab.B, "xA")):
        h.ip(f"route add 239.0.0.0/8 dev {dev}")
        h.start_agent(discovery__multicast="yes", discovery__interval="100")
    wait_for(lambda: agents.known(lab, lab.A, b) and agents.known(lab, lab.B, a), 5,
             "the agents to hear of each other")
    s = walkers.server(lab, lab.B, at=b, rate=2_000_000)
    c = walkers.client(lab, lab.A, s, rate=2_000_000)
    c.wait_upgraded()
    s.wait_upgraded()
    verdict(case, c, s)


def local(case, lab):
    """Ends on one host meet as without an agent, and stay off the network."""
    agents.start_agents(lab, [lab.A, lab.B])
    before = lab.R.agent_packets()
    c, s = pair(lab, lab.A, lab.A)
    n = lab.A.kill_sockets()
    case.check(n > 0, "nothing was broken")
    c.wait_bytes(200_000, what="it goes on")
    verdict(case, c, s)
    case.check(walkers.resumed(c, s) > 0, "nothing resumed")
    wait_for(lambda: True, 1, "")
    case.check(lab.R.agent_packets() - before < 50, "the agents talked about it")


def alien_directory(case, lab):
    """An agent's directory that others can write to is not used."""
    import os
    path = os.path.join(lab.dir, "open")
    os.mkdir(path)
    os.chmod(path, 0o777)
    lab.A.start_agent(wait=False, agent__directory=path)
    p = lab.A.agent.proc
    case.check(p.wait(5) != 0, "roamd started in a directory of everybody")
    case.check(path in p.err(), f"the message does not name {path}")


def refuses(case, lab, settings, words):
    """A start that cannot work ends at once and says why."""
    lab.A.start_agent(wait=False, **{k: v(lab) if callable(v) else v
                                     for k, v in settings.items()})
    p = lab.A.agent.proc
    case.check(p.wait(5) != 0, "roamd started")
    for w in words:
        case.check(re.search(w, p.err(), re.I), f"no {w!r} in: {p.err().strip()!r}")


def loose_key(lab):
    import os
    path = agents.cluster_key(lab, "loose")
    os.chmod(path, 0o644)
    return path


def short_key(lab):
    import os
    path = os.path.join(lab.dir, "short.key")
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    os.write(fd, b"abcdef\n")
    os.close(fd)
    return path


def port_taken(case, lab):
    from lab import PORT
    taken = walkers.server(lab, lab.A, port=PORT, roam=False, at="0.0.0.0")
    case.check(taken.proc.alive(), "the port is not taken")
    refuses(case, lab, {}, [str(PORT), "in use"])


def cases(_args):
    def c(name, fn, limit=30, hosts="AB", **how):
        return (name, limit, with_lab(fn, hosts, **how))
    out = [c(f"upgrade between two hosts: IPv{6 if v6 else 4}, {m}", upgrade, v6=v6, mode=m)
           for v6 in (False, True) for m in ("epoll", "epoll-et", "blocking")]
    out += [
        c("40 connections are upgraded", upgrade, connections=40),
        c("ended connections are forgotten", end_of_all),
        c("no agent at all: plain", stays_plain, agents_on="", words={"remote"}),
        c("no agent at the server: plain", stays_plain, agents_on="A",
          words={"remote", "no-agent"}),
        c("no agent at the client: plain", stays_plain, agents_on="B",
          words={"remote", "no-agent", "young", "no-peer"}),
        c("an unknown network is never asked", stays_plain, agents_on="A",
          words={"remote", "no-agent"}, network=False),
        c("an agent that comes later", late_agent),
        c("address translation: plain, reason nat", translated),
        c("ROAM=off in the client", off, who="client"),
        c("ROAM=off in the server", off, who="server"),
        c("a client that is not re-linked", plain_peer, who="client"),
        c("a server that is not re-linked", plain_peer, who="server"),
        c("found through the network's name in the configuration", by_network),
        c("found by multicast", multicast),
        c("two ends on one host", local),
        c("roamd: a directory of everybody", alien_directory, hosts="A"),
        c("roamd: the key can be read by others", refuses, hosts="A",
          settings=dict(agent__key=loose_key), words=["loose.key", "0?600|mode|others"]),
        c("roamd: the key is too short", refuses, hosts="A",
          settings=dict(agent__key=short_key), words=["short.key", "64"]),
        c("roamd: there is no key", refuses, hosts="A",
          settings=dict(agent__key=lambda lab: lab.dir + "/none.key"),
          words=["none.key", "keygen|no such"]),
        c("roamd: an unknown setting", refuses, hosts="A",
          settings=dict(agent__banana="1"), words=["banana"]),
        c("roamd: the port is taken", port_taken, hosts="A"),
    ]
    return out
