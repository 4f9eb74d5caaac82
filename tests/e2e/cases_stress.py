"""Many real breaks under load, over several connections, byte-exact."""
import functools

from harness import wait_for
from programs import (MODES, bulk_recv, bulk_send, check_bulk, check_resumed,
                      echo_client, echo_server, wait_upgraded)

CONNECTIONS = 5


def stress(case, breaks):
    """Rounds of transfers in all modes until that many breaks have been made."""
    case.need("both")
    s = bulk_recv(case, mode="epoll", size="64M", args=["-s", "32k"])
    clients, total, rounds = [], 0, 0
    while total < breaks:
        now = [bulk_send(case, s, mode=MODES[(rounds + i) % len(MODES)],
                         size="32M", rate=16, duplex=True,
                         seed=1 + rounds * CONNECTIONS + i)
               for i in range(CONNECTIONS)]
        for c in now:
            wait_upgraded(c)
        # Both ends: the server's half of the last connection may be later.
        wait_for(lambda n=len(clients) + len(now):
                 len(s.proc.connections("upgraded")) >= n, 10,
                 "the server's side of the upgrades")
        # Mostly destroyed, for speed; a reset rule takes longer to bite.
        b = case.breaker([s.proc, *now], how="kill" if rounds % 3 else "both",
                         interval="0:8", count=breaks - total,
                         until=now[0])
        case.seed += 1
        for c in now:
            c.succeed(60)
        made = case.breaks_of(b)
        case.check(made > 0, "a round without any break")
        total += made
        rounds += 1
        clients += now
    check_bulk(case, s, clients, duplex=True)
    resumed = max(len(s.proc.events("resumed")),
                  sum(len(c.events("resumed")) for c in clients))
    case.note(f"{total} breaks, {resumed} resumed, {len(clients)} connections")
    case.check(resumed >= total // 2,
               f"{total} breaks but only {resumed} lines 'resumed'")


def descriptors(case):
    """Repairs must give back what they take."""
    case.need("kill")
    s = echo_server(case, mode="epoll")
    listening = s.proc.fds()
    c = echo_client(case, s, mode="epoll", messages=4000, connections=3)
    wait_upgraded(c, s.proc, connections=3)
    before = [s.proc.fds(), c.fds()]
    b = case.breaker([s.proc, c], interval="2:20", count=60)
    b.succeed(30)
    made = case.breaks_of(b)
    # A repair may be under way; it is not a leak when it ends.
    for p, n in zip([s.proc, c], before):
        wait_for(lambda p=p, n=n: not p.alive() or p.fds() <= n, 5,
                 f"{p.label} to have {n} descriptors again after {made} breaks")
    case.check(c.alive(), "the transfer ended before the descriptors were counted")
    case.check(made == 60, f"{made} breaks, 60 wanted")
    c.succeed(30)
    # The rendezvous socket and what serves it may stay; connections may not.
    wait_for(lambda: s.proc.fds() <= listening + 4, 5,
             f"the server to have at most {listening} + 4 descriptors")
    case.note(f"server {listening} listening, {before[0]} connected, "
              f"{s.proc.fds()} at the end")
    check_resumed(case, made, [s.proc, c])


def cases(args):
    n = args.breaks
    return [(f"{n} breaks under load, {CONNECTIONS} connections at a time",
             120 + n / 2, functools.partial(stress, breaks=n)),
            ("no descriptor leaks over 60 breaks", 60, descriptors)]
