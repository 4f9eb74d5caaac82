"""The example programs as the cases use them: one place for their options."""
import os
import re
from collections import Counter

from harness import Fail, Skip, wait_for

MODES = ["blocking", "poll", "select", "epoll", "epoll-et", "epoll-oneshot"]
DIGEST = re.compile(r"^(sent|received) (\d+) bytes, digest ([0-9a-f]+)", re.M)


def program(case, name, roam):
    path = os.path.join(case.config.bin_dir, name + ("-roam" if roam else ""))
    if not os.access(path, os.X_OK):
        raise Skip(f"{path} is not built")
    return path


class Server:
    """echo_server or bulk_recv, started, with the port that it chose."""

    def __init__(self, case, name, mode="blocking", roam=True, args=(), binary=None,
                 **how):
        self.proc = case.start([binary or program(case, name, roam),
                                "-p", "0", "-e", mode, *args], **how)
        self.port = int(self.proc.expect(r"^listening on .*:(\d+)$")[1])


def echo_server(case, **how):
    return Server(case, "echo_server", **how)


def bulk_recv(case, size=None, args=(), **how):
    """With size: full duplex, this many bytes go back on each connection."""
    duplex = [] if size is None else ["-x", "-n", size]
    return Server(case, "bulk_recv", args=[*duplex, *args], **how)


def echo_client(case, server, mode="blocking", roam=True, messages=800,
                size=1024, window=8, every_ms=1, connections=1, binary=None,
                **how):
    return case.start([binary or program(case, "echo_client", roam),
                       "-p", server.port, "-e", mode, "-n", messages,
                       "-s", size, "-w", window, "-i", every_ms,
                       "-c", connections], **how)


def bulk_send(case, server, mode="blocking", roam=True, size="16M", rate=None,
              duplex=False, seed=1, args=(), binary=None, **how):
    argv = [binary or program(case, "bulk_send", roam), "-p", server.port,
            "-e", mode, "-n", size, "-d", seed, *args]
    if rate:
        argv += ["-r", rate]
    if duplex:
        argv += ["-x"]
    return case.start(argv, **how)


def digests(proc, what):
    """All (bytes, digest) that a bulk program printed for "sent" or "received"."""
    return sorted((int(n), d) for w, n, d in DIGEST.findall(proc.out()) if w == what)


def check_bulk(case, server, clients, duplex=False, seconds=30):
    """The clients end well, the server ends well, and every byte was right."""
    for c in clients:
        c.succeed(seconds)
    case.check(server.proc.alive(), "the server is gone")
    # Its last bytes may still be on their way when the client has ended.
    wait_for(lambda: len(digests(server.proc, "received")) >= len(clients)
             or not server.proc.alive(), seconds, "the server's results")
    rc = server.proc.stop()
    case.check(rc == 0, f"{server.proc.label} ended with {rc}")
    pairs = [("sent", "received")] + ([("received", "sent")] if duplex else [])
    for ours, theirs in pairs:
        mine = Counter(d for c in clients for d in digests(c, ours))
        other = Counter(digests(server.proc, theirs))
        case.check(mine.total() == len(clients),
                   f"{mine.total()} results of {len(clients)} clients")
        case.check(mine == other,
                   f"only clients {ours} {sorted((mine - other).elements())}, "
                   f"only the server {theirs} {sorted((other - mine).elements())}")


def check_echo(case, server, client, seconds=30):
    client.succeed(seconds)
    case.check(server.proc.alive(), "the server is gone")
    rc = server.proc.stop()
    case.check(rc == 0, f"{server.proc.label} ended with {rc}")
    # A server that goes on after an error says so on stderr only.
    if re.search(r"^echo_server\S*: connection from", server.proc.err(), re.M):
        raise Fail("the server saw an error on a connection")


def wait_upgraded(*procs, connections=1, seconds=10):
    """Before this, a break is the business of plain TCP."""
    for p in procs:
        wait_for(lambda p=p: len(p.connections("upgraded")) >= connections
                 or not p.alive(), seconds, f"an upgrade in {p.label}")
        if len(p.connections("upgraded")) < connections:
            raise Fail(f"{p.label} ended before it was upgraded")


def check_resumed(case, breaks, procs, share=0.5, at_least=1):
    """The library must have noticed and repaired, in one end or the other.

    Several breaks can be repaired by one resume, and the last may come when
    there is nothing left to carry; so a share of them is asked for."""
    case.check(breaks >= at_least, f"only {breaks} breaks, {at_least} wanted")
    resumed = max(len(p.events("resumed")) for p in procs)
    case.note(f"{breaks} breaks, {resumed} resumed")
    case.check(resumed >= max(1, int(breaks * share)),
               f"{breaks} breaks but only {resumed} lines 'resumed'")


def check_untouched(case, *procs):
    for p in procs:
        case.check(not p.events("upgraded"), f"{p.label} was upgraded")
        case.check(not p.events("resumed"), f"{p.label} resumed something")
