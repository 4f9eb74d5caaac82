"""Killed peers, hostile neighbours, bad settings, short resources."""
import functools
import os
import random
import re
import signal
import socket
import stat
import time

from harness import NOBODY, SCALE, Fail, Skip, wait_for
from programs import (bulk_recv, bulk_send, check_bulk, check_resumed,
                      check_untouched, wait_upgraded)


def killed(case, victim, mode, broken_before):
    """kill -9 of one end: the other learns it as fast as from the kernel."""
    if broken_before:
        case.need("kill")
    s = bulk_recv(case, mode=mode, size="100M", args=["-1"])
    c = bulk_send(case, s, mode=mode, size="100M", rate=10, duplex=True)
    wait_upgraded(c, s.proc)
    if broken_before:
        # after a move to another link as well as on the first
        case.breaker([s.proc, c], count=2).succeed(10)
        wait_for(lambda: s.proc.events("resumed") or c.events("resumed"), 5,
                 "the repair")
    dead, left = (c, s.proc) if victim == "client" else (s.proc, c)
    dead.popen.kill()
    began = time.monotonic()
    rc = left.wait(1)
    case.note(f"the other end ended after {time.monotonic() - began:.2f} s")
    case.check(rc in (0, 1), f"the other end ended with {rc}")
    if rc == 1:
        case.check(re.search(r"errno (104|32)\b|given up", left.err()),
                   "neither end of stream nor ECONNRESET")


def frozen(case):
    """A stopped peer is not a dead one: nothing may be reset, nothing lost."""
    case.need("kill")
    s = bulk_recv(case, mode="epoll", size="24M")
    c = bulk_send(case, s, mode="epoll-et", size="24M", rate=24, duplex=True)
    wait_upgraded(c, s.proc)
    s.proc.signal(signal.SIGSTOP)
    try:
        case.breaker([s.proc, c], count=1, side="client").succeed(10)
        # long enough for the other end to notice and to try in vain
        time.sleep(0.3)
        case.check(c.alive(), "the sender gave up on a stopped peer")
    finally:
        s.proc.signal(signal.SIGCONT)
    check_bulk(case, s, [c], duplex=True)
    check_resumed(case, 1, [s.proc, c])


def rendezvous_sockets(top):
    found = []
    for where, _dirs, files in os.walk(top):
        paths = [os.path.join(where, f) for f in files]
        found += [p for p in paths if stat.S_ISSOCK(os.lstat(p).st_mode)]
    return found


def connect_any(path):
    """Which type it is may change; a hostile neighbour would try them all."""
    for kind in (socket.SOCK_SEQPACKET, socket.SOCK_STREAM, socket.SOCK_DGRAM):
        s = socket.socket(socket.AF_UNIX, kind)
        s.setblocking(False)
        try:
            s.connect(path)
            return s
        except BlockingIOError:     # the backlog is full: that is a result too
            s.close()
            return None
        except OSError:
            s.close()
    return None


def garbage(rng):
    """Random bytes; all sizes, also empty, cut and with plausible beginnings."""
    n = rng.choice((0, 1, 3, 4, 8, 16, 24, 32, 48, 64, 100, 128, 256, 1000, 4096,
                    65000))
    body = rng.randbytes(n)
    start = rng.choice((b"", b"", b"roam", b"ROAM", b"\0" * 8, b"\xff" * 8,
                        n.to_bytes(4, "little"), n.to_bytes(4, "big"),
                        b"\1\0\0\0", b"\0\1\0\0"))
    return (start + body)[:n]


def attack(case, top, until):
    """Abuses every socket under `top` until `until` ends; (connections, messages)."""
    rng = random.Random(case.seed)
    open_ones, made, sent = [], 0, 0
    end = time.monotonic() + 10 * SCALE
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
    try:
        while until.alive() and time.monotonic() < end and sent < 4000:
            for path in rendezvous_sockets(top):
                s = connect_any(path)
                if not s:
                    continue
                made += 1
                open_ones.append(s)
            for s in rng.sample(open_ones, min(8, len(open_ones))):
                try:
                    if rng.random() < 0.2:
                        # descriptors nobody asked for must not be kept
                        socket.send_fds(s, [garbage(rng) or b"x"], files)
                    else:
                        s.send(garbage(rng))
                    sent += 1
                except OSError:     # thrown out, or nobody reads: both fine
                    open_ones.remove(s)
                    s.close()
            while len(open_ones) > 64:      # some stay and say nothing
                open_ones.pop(rng.randrange(len(open_ones))).close()
            time.sleep(0.001)
    finally:
        for s in open_ones:
            s.close()
        for f in files:
            os.close(f)
    return made, sent


def hostile(case, breaks):
    if breaks:
        case.need("kill")
    s = bulk_recv(case, mode="epoll", size="32M")
    c = bulk_send(case, s, mode="blocking", size="32M", rate=20, duplex=True)
    wait_upgraded(c, s.proc)
    if not wait_for(lambda: rendezvous_sockets(case.roam_dir), 5,
                    "a rendezvous socket in ROAM_DIR"):
        raise Fail("no rendezvous socket")
    before = s.proc.fds(), c.fds()
    b = case.breaker([s.proc, c], interval="20:60", until=c,
                     half_closed=True, count=15) if breaks else None
    made, sent = attack(case, case.roam_dir, c)
    case.note(f"{made} connections, {sent} messages")
    case.check(made > 0 and sent > 0, "the attack reached nobody")
    c.succeed(30)
    wait_for(lambda: s.proc.fds() <= before[0] + 4, 5,
             f"the server to let go of what it was sent ({before[0]} before)")
    if b:
        check_resumed(case, case.breaks_of(b), [s.proc, c], at_least=3)
    check_bulk(case, s, [c], duplex=True)


def bad_directory(case, kind):
    """An unusable ROAM_DIR costs the upgrade, never the connection."""
    path = os.path.join(case.dir, "bad")
    if kind == "is a file":
        open(path, "w").close()
    elif kind != "missing":
        os.mkdir(path)
        os.chmod(path, {"world-writable": 0o777, "group-writable": 0o770,
                        "of another user": 0o777}[kind])
    if kind == "of another user":
        if os.geteuid() != 0:
            raise Skip("needs root")
        try:
            os.chown(path, NOBODY, NOBODY)
        except OSError as e:
            raise Skip(f"chown: {e}") from None
    env = case.environ(roam_dir=path)
    s = bulk_recv(case, mode="epoll", size="16M", env=env)
    c = bulk_send(case, s, mode="epoll", size="16M", rate=32, duplex=True,
                  env=env)
    check_bulk(case, s, [c], duplex=True)
    if kind == "missing":
        # making it or doing without are both right; what it made must be private
        if os.path.isdir(path):
            case.check(not os.stat(path).st_mode & 0o022,
                       "the directory it made can be written by others")
        case.note(f"{len(c.events('upgraded'))} upgraded")
    else:
        check_untouched(case, c, s.proc)
        case.check(re.search(r"^roam\b.*" + re.escape(path), s.proc.err(), re.M),
                   "no message names the directory that is not used")


def bad_setting(case, name, value):
    env = case.environ(**{name: value})
    s = bulk_recv(case, mode="epoll", size="8M", env=env)
    c = bulk_send(case, s, mode="epoll", size="8M", rate=16, duplex=True, env=env)
    check_bulk(case, s, [c], duplex=True)
    for p in (s.proc, c):
        lines = [x for x in p.err().splitlines()
                 if x.startswith("roam") and name in x and value in x]
        case.check(len(lines) == 1,
                   f"{p.label}: {len(lines)} messages name {name} and {value}, not 1")
    # "... and the default is used"
    if name != "ROAM_LOG":
        case.check(c.events("upgraded"), "not upgraded, as it is by default")


def few_descriptors(case, limit):
    """With no room for more descriptors it is plain TCP, and it works."""
    ref = bulk_recv(case, mode="epoll", size="4M", nofile=limit, roam=False)
    check_bulk(case, ref, [bulk_send(case, ref, mode="epoll", size="4M",
                                     duplex=True, nofile=limit, roam=False)],
               duplex=True)
    s = bulk_recv(case, mode="epoll", size="16M", nofile=limit)
    c = bulk_send(case, s, mode="epoll", size="16M", rate=32, duplex=True,
                  nofile=limit)
    check_bulk(case, s, [c], duplex=True)
    case.note(f"{len(c.events('upgraded'))} upgraded")


def silent_log(case):
    """ROAM_LOG=error: a run in which nothing goes wrong prints nothing."""
    case.need("kill")
    env = case.environ(ROAM_LOG="error")
    s = bulk_recv(case, mode="epoll", size="24M", env=env)
    c = bulk_send(case, s, mode="epoll", size="24M", rate=24, duplex=True)
    wait_upgraded(c)
    b = case.breaker([s.proc, c], until=c, half_closed=True, count=5)
    check_bulk(case, s, [c], duplex=True)
    case.check(case.breaks_of(b) > 0, "nothing was broken")
    case.check(not re.search("^roam", s.proc.err(), re.M),
               "the library is not silent")


def cases(_args):
    part = functools.partial
    out = []
    for victim in ("client", "server"):
        for mode in ("blocking", "epoll-et"):
            out.append((f"kill -9 of the {victim}, {mode}", 20, part(
                killed, victim=victim, mode=mode, broken_before=False)))
        out.append((f"kill -9 of the {victim} after a repair", 20, part(
            killed, victim=victim, mode="epoll", broken_before=True)))
    out.append(("a break while the peer is stopped", 30, frozen))
    out.append(("garbage at the rendezvous sockets", 40, part(hostile, breaks=False)))
    out.append(("garbage at the rendezvous sockets during breaks", 40, part(
        hostile, breaks=True)))
    for kind in ("missing", "is a file", "world-writable", "group-writable",
                 "of another user"):
        out.append((f"ROAM_DIR {kind}", 30, part(bad_directory, kind=kind)))
    for name in ("ROAM", "ROAM_LOG", "ROAM_LINK", "ROAM_SPIN", "ROAM_CODEC"):
        out.append((f"{name} with an unknown value", 30, part(
            bad_setting, name=name, value="banana")))
    for limit in (9, 12, 16, 32):
        out.append((f"at most {limit} descriptors", 30, part(
            few_descriptors, limit=limit)))
    out.append(("ROAM_LOG=error prints nothing when all goes well", 30, silent_log))
    return out
