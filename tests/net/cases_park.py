"""A server is replaced, here or on another host; its clients do not notice."""
import os

import agents
import walkers
from cases_lab import with_lab
from harness import Skip, wait_for

PORT = 4100
NAME = "shop"
LIB = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "lib")


def need_parking():
    if not any("ROAM_PARK" in open(os.path.join(LIB, f)).read()
               for f in os.listdir(LIB) if f.endswith(".c")):
        raise Skip("the library has no ROAM_PARK yet")


def instance(case, lab, host, **changes):
    p = lab.spawn(host, [walkers.program(lab, "parker"), f"0.0.0.0:{PORT}"],
                  label=f"parker-{host.name}", env=case.environ(ROAM_PARK=NAME, **changes))
    p.expect(r"^listening on")
    return p


def replaced(case, lab, route, clients, overlap=False, ready=lambda c: None, **changes):
    """clients: connections with streams through the echo; a new instance on each
    host of the route, the first when the client is ready."""
    need_parking()
    agents.start_agents(lab)
    hosts = [lab.hosts[n] for n in route]
    p = instance(case, lab, hosts[0], **changes)
    c = walkers.client(lab, lab.A, f"{hosts[0].addr}:{PORT}", connections=clients,
                       args=["-e"], rate=3_000_000 / clients, env=case.environ(**changes))
    c.wait_upgraded(clients, 20)
    wait_for(lambda: len(p.connections("upgraded")) >= clients, 10, "the server's side")
    ready(c)
    for to in hosts[1:]:
        new = instance(case, lab, to, **changes) if overlap and to is not p.host else None
        p.signal(15)
        case.check(p.wait(10) == 0, f"{p.label} ended badly")
        p = new or instance(case, lab, to, **changes)
        c.wait_bytes(2_000_000, 20, f"the new instance on {to.name} answers")
    c.finish()
    c.proc.succeed(20)
    r = c.results().values()
    case.check(len(r) == clients and all(x["sent"] == x["received"] and
                                         x["sent_digest"] == x["received_digest"]
                                         for x in r), "not every byte came back")
    case.check(not walkers.reasons(c.proc, "ended"), "a client's connection gave up")
    case.note(f"{sum(x['sent'] for x in r) >> 20} MiB through {len(hosts)} instances")


def nobody_comes(case, lab):
    """No next instance: the connections end after their time, as closed ones do."""
    need_parking()
    agents.start_agents(lab, **{"limits__parked-seconds": "2"})
    p = instance(case, lab, lab.B)
    c = walkers.client(lab, lab.A, f"{lab.B.addr}:{PORT}", args=["-e"], rate=500_000)
    c.wait_upgraded(1)
    p.signal(15)
    p.wait(10)
    wait_for(lambda: not c.proc.alive(), 20, "the client to be told")
    r = next(iter(c.results().values()))
    case.note(f"the client saw {r['error'] or 'the end of the stream'}")


def cases(_args):
    def c(name, fn, limit=60, hosts="ABC", **how):
        return (f"park: {name}", limit, with_lab(fn, hosts, **how))
    return [
        c("the next instance on the same host", replaced, route="BB", clients=10),
        c("the next instance on another host", replaced, route="BC", clients=10),
        c("the next one runs before the old one ends", replaced, route="BC", clients=10,
          overlap=True),
        c("100 busy clients, three instances", replaced, route="BCB", clients=100),
        c("nobody comes", nobody_comes),
    ]
