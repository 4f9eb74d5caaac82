"""A peer without roam, or roam switched off: plain TCP, and nothing else."""
import functools
import os
import re
import shutil

from harness import NOBODY, Skip
from programs import (MODES, bulk_recv, bulk_send, check_bulk, check_echo,
                      check_untouched, echo_client, echo_server, program)

# What the kernel's TCP tells an application whose connection is reset:
# the first call after it ECONNRESET, a write after that EPIPE.
RESET = re.compile(r"\(errno (104|32)\)")


def transfer(case, client_roam, server_roam, mode, **env):
    how = dict(env=case.environ(**env))
    s = bulk_recv(case, mode=mode, size="24M", roam=server_roam, **how)
    # slow enough that a library which wants to upgrade finds the time
    c = bulk_send(case, s, mode=mode, size="16M", rate=40, duplex=True,
                  roam=client_roam, **how)
    # Both ends print what their application sent and received: an added or
    # lost byte on the wire of the plain end would show in one of the four.
    check_bulk(case, s, [c], duplex=True)
    check_untouched(case, c, s.proc)
    if env.get("ROAM") == "off":
        case.check("roam[" not in c.err() + s.proc.err(),
                   "the library speaks though it is off")


def talk(case, client_roam, server_roam, mode):
    s = echo_server(case, mode=mode, roam=server_roam)
    c = echo_client(case, s, mode=mode, roam=client_roam, messages=3000,
                    every_ms=0)
    check_echo(case, s, c)
    check_untouched(case, c, s.proc)


def broken(case, client_roam, server_roam, how, **env):
    """A break is a break; which errno is the same as between two plain ends."""
    case.need(how)
    env = case.environ(**env)
    s = bulk_recv(case, mode="epoll", roam=server_roam, env=env)
    c = bulk_send(case, s, mode="blocking", size="200M", rate=20,
                  roam=client_roam, env=env)
    # The end to look at is the one that the reset reaches: behind a rule the
    # end whose packets are refused, else the one whose peer is destroyed.
    look_at_client = client_roam or not server_roam
    side = "client" if look_at_client == (how == "nft") else "server"
    b = case.breaker([], how=how, side=side, port=s.port, count=1)
    b.succeed(10)
    case.check(case.breaks_of(b) == 1, "nothing was broken")
    rc = c.wait(5)
    case.check(rc == 1, f"the sender ended with {rc} after the break")
    seen = c if look_at_client else s.proc
    seen.expect(r"\(errno \d+\)", 5)
    case.check(RESET.search(seen.err()), f"{seen.label} saw no ECONNRESET")
    check_untouched(case, c, s.proc)


def other_user(case, server_other, shared_dir):
    """Another uid is another trust domain, whoever owns the directory."""
    if os.geteuid() != 0:
        raise Skip("needs root")
    with open("/proc/self/uid_map") as f:
        if f.read().split()[2] == "1":
            raise Skip("needs more than one uid in this user namespace")
    os.chmod(case.dir, 0o711)
    bins = os.path.join(case.dir, "bin")
    theirs = os.path.join(case.dir, "theirs")
    os.mkdir(bins, 0o755)
    os.mkdir(theirs, 0o700)
    os.chown(theirs, NOBODY, NOBODY)
    copy = {n: shutil.copy(program(case, n, True), bins)
            for n in ("bulk_recv", "bulk_send")}
    ours = dict(env=case.environ(roam_dir=theirs if shared_dir else None))
    other = dict(env=case.environ(roam_dir=theirs), uid=NOBODY)
    s = bulk_recv(case, mode="epoll", size="16M", binary=copy["bulk_recv"],
                  **(other if server_other else ours))
    c = bulk_send(case, s, size="16M", rate=32, duplex=True,
                  binary=copy["bulk_send"], **(ours if server_other else other))
    check_bulk(case, s, [c], duplex=True)
    check_untouched(case, c, s.proc)


def short(case):
    """Connections that end at once: nothing to upgrade, nothing left behind."""
    s = echo_server(case, mode="epoll")
    before = s.proc.fds()
    c = echo_client(case, s, mode="epoll", messages=1, every_ms=0,
                    connections=200)
    c.succeed(20)
    case.check(s.proc.fds() <= before + 4,
               f"{s.proc.fds()} descriptors, {before} before 200 connections")
    check_echo(case, s, c)


def cases(_args):
    part = functools.partial
    out = []
    for a, b in ((True, False), (False, True)):
        name = (f"{'re-linked' if a else 'plain'} client, "
                f"{'re-linked' if b else 'plain'} server")
        for m in MODES:
            out.append((f"bulk, {name}, {m}", 30, part(
                transfer, client_roam=a, server_roam=b, mode=m)))
        out.append((f"echo, {name}", 30, part(
            talk, client_roam=a, server_roam=b, mode="epoll-et")))
        for how in ("kill", "nft"):
            out.append((f"a break, {name}, by {how}", 30, part(
                broken, client_roam=a, server_roam=b, how=how)))
    out.append(("a break between two plain ends: the reference", 30, part(
        broken, client_roam=False, server_roam=False, how="kill")))
    out.append(("ROAM=off: both ends plain", 30, part(
        transfer, client_roam=True, server_roam=True, mode="epoll", ROAM="off")))
    out.append(("ROAM=off: a break is a break", 30, part(
        broken, client_roam=True, server_roam=True, how="kill", ROAM="off")))
    for server_other in (True, False):
        who = "server" if server_other else "client"
        out.append((f"the {who} of another user, own directory", 30, part(
            other_user, server_other=server_other, shared_dir=False)))
        out.append((f"the {who} of another user, both in that user's directory",
                    30, part(other_user, server_other=server_other,
                             shared_dir=True)))
    out.append(("200 connections of one message", 40, short))
    return out
