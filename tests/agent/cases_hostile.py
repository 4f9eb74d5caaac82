"""Bad input: refused, with the cause; what exists is unharmed."""
import os
import random
import re
import secrets
import socket
import subprocess
import time

from harness import NOBODY, Skip, wait_for
from rig import (ACCEPTOR, LIST, MOVED, MSGS, REASON, STATS, Proc, Rig, encode, gid, memfd, own_both, tuple_of,
                 upgrade)


class Pair:
    """Two agents with a connection that must be unharmed at the end."""

    def __init__(self, case, hosts=2, **how):
        self.case, self.rig = case, Rig(case, hosts)
        self.a, self.b = self.rig.agents["a"], self.rig.agents["b"]
        self.a.start(f"discovery.peers={self.b.ip}")
        self.b.start(f"discovery.peers={self.a.ip}", *how.pop("sets", ()), **how)
        self.a.knows(self.b)
        self.b.knows(self.a)
        self.pa, self.pb = self.a.register(), self.b.register()
        self.g, self.key, *_ = upgrade(self.rig, self.a, self.b, self.pa, self.pb)
        own_both(self.a, self.b, self.pa, self.pb, self.g)
        self.opened = self.b.stats()["sessions_opened"]

    def unharmed(self):
        nonce = secrets.randbits(60)
        self.pa.send("QUERY", gid=self.g, nonce=nonce)
        self.pa.expect("LOCATION", nonce=nonce)
        self.case.check(self.b.stats()["sessions_opened"] == self.opened, "the session did not survive")


def closed(s, seconds=4):
    """Was the connection closed by the other side?"""
    s.settimeout(seconds)
    try:
        while s.recv(65536):
            pass
    except ConnectionError:
        return True
    except socket.timeout:
        return False
    return True


def cluster_key(case):
    t = Pair(case, 3)
    c = t.rig.agents["c"]
    other = os.path.join(case.dir, "other")
    t.rig.write_key(other)
    c.start(f"discovery.peers={t.b.ip}", key=other)
    t.b.proc.expect("its cluster key is another one")
    c.proc.expect("another cluster key there")
    case.check(t.b.stats()["refused_forged_kx"] >= 1, "not counted")
    case.check(not c.markers("h") and len(t.b.markers("h")) == 1, "a session came to be")
    t.unharmed()


def recorded_kx(case):
    """A KX with a right MAC, sent by somebody without its secret key, replaces no session."""
    t = Pair(case)
    with open(t.rig.key) as f:
        key = bytes.fromhex(f.read().split()[0])
    socks = []
    for host in (t.pa.hello.host, t.pb.hello.host, gid()):
        s = t.a.tcp(t.b.ip)
        s.sendall(encode("KX", key, host=host, port=7626, nonce=1, key=secrets.token_bytes(32)))
        s.sendall(b"\0" * 24 + b"\x20\0" + secrets.token_bytes(32))
        socks.append(s)
    for s in socks:
        case.check(closed(s), "it was not closed")
    t.unharmed()


def garbage(case):
    t = Pair(case)
    req = encode("REQ", t.key, gid=t.g, epoch=1, attempt=1, nonce=1)
    junk = [b"GET / HTTP/1.1\r\n\r\n", secrets.token_bytes(200), b"\0" * 1000, req[:5] + b"\xff" + req[6:],
            req[:6] + b"\xff\xff" + req[8:], req[:6] + b"\0\0" + req[8:], encode("PING", nonce=1),
            b"roam\x02" + req[5:], b"roam"]
    for j in junk:
        s = t.a.tcp(t.b.ip)
        s.sendall(j)
        case.check(closed(s), f"{j[:12]!r} was not closed")
    # a REQ with a wrong MAC is the process's to judge
    s = t.a.tcp(t.b.ip)
    s.sendall(req[:-1] + b"\0")
    t.pb.expect("REQ")
    t.unharmed()
    case.check(t.b.stats()["refused_garbage"] >= 8, "not counted")


def slow_loris(case):
    """Many that say nothing: bounded, closed after 2 s, and another address still gets in."""
    t = Pair(case, 3)
    c = t.rig.agents["c"]
    socks = [t.a.tcp(t.b.ip) for _ in range(100)]
    for s in socks[::2]:
        try:
            s.sendall(b"roam\x01")
        except ConnectionError:
            pass
    began = time.monotonic()
    wait_for(lambda: t.b.stats()["refused_limit"] >= 68, 3, "the limit for one address")
    s = c.tcp(t.b.ip)
    s.sendall(encode("REQ", t.key, gid=t.g, epoch=1, attempt=1, nonce=1))
    t.pb.expect("REQ", seconds=1)
    t.unharmed()
    for s in socks:
        case.check(closed(s), "one was not closed")
    took = time.monotonic() - began
    case.check(took < 4, f"closed after {took:.1f} s")
    case.check(t.b.stats()["refused_slow"] >= 30, "not counted")
    t.unharmed()


def local_garbage(case):
    t = Pair(case)
    reg = encode("REGISTER", pid=os.getpid(), start=1)
    for first, junk in ((True, b"x"), (True, secrets.token_bytes(100)), (True, reg + b"x"), (True, reg[:-1]),
                        (True, encode("OWN", gid=gid())), (False, b"x" * 300), (False, encode("AGENT")),
                        (False, encode("KX")), (False, reg)):
        p = Proc(t.b, register=not first)
        p.raw(junk)
        case.check(p.closed(3), f"{junk[:12]!r} was not closed")
    p = Proc(t.b, register=False)
    p.send("REGISTER", pid=1, start=1)
    case.check(p.expect("REFUSE").reason == REASON.DENIED and p.closed(), "registered as process 1")
    p = Proc(t.b, register=False)       # says nothing
    case.check(p.closed(4), "it was not closed")
    t.unharmed()


def as_nobody(agent):
    """A connection of another user."""
    for d in (agent.rig.case.dir, agent.dir):
        os.chmod(d, 0o755)
    os.seteuid(NOBODY)
    try:
        return Proc(agent)
    finally:
        os.seteuid(0)


def other_user(case):
    """Another user's connection can neither be claimed nor asked for, nor its process be frozen."""
    t = Pair(case)
    p = as_nobody(t.b)
    for role in (0, ACCEPTOR):
        p.send("OWN", gid=t.g, flags=role | MOVED, epoch=9)
        p.expect("RELEASE", gid=t.g, reason=REASON.DENIED)
        p.send("QUERY", gid=t.g, flags=role, nonce=3)
        p.expect("REFUSE", nonce=3, reason=REASON.DENIED)
        p.raw(encode("NOTICE", t.key, gid=t.g, flags=role, fin=1))
        p.send("RELEASE", gid=t.g, flags=role, epoch=1, reason=REASON.CLOSED)
    t.pa.silent("NOTICE")
    o, c = t.rig.connection(t.b, t.a)
    for fd, change in ((None, {}), (c.fileno(), {}), (o.fileno(), dict(aport=1)), (0, {})):
        p.send("OFFER", fd=fd, nonce=5, **{**tuple_of(o), **change})
        p.expect("REFUSE", nonce=5, reason=REASON.TUPLE)
    for op in (STATS, 5, 1, 3):
        os.seteuid(NOBODY)
        q = Proc(t.b, register=False)
        os.seteuid(0)
        q.send("COMMAND", nonce=1, op=op, pid=os.getpid())
        q.expect("REFUSE", nonce=1, reason=REASON.DENIED)
    os.seteuid(NOBODY)
    q = Proc(t.b, register=False)
    os.seteuid(0)
    q.send("COMMAND", nonce=1, op=LIST)
    m = p.expect("COMMAND", op=LIST)            # its own process is asked, the other is not
    p.send("REPORT", nonce=m.nonce)
    q.expect("REPORT", nonce=1)
    t.pb.silent("COMMAND", 0.1)
    case.check(t.b.stats()["refused_uid"] >= 8, "not counted")
    t.unharmed()


def floods(case):
    """A process that reads nothing loses its channel, not the agent its memory; limits hold."""
    t = Pair(case, sets=("limits.connections-per-user=50",))
    # its answers are not read: its questions neither, until they are
    p, sent = t.b.register(), 0
    p.s.setblocking(False)
    try:
        while sent < 20000:
            p.s.send(encode("QUERY", gid=t.g, flags=0, nonce=sent))
            sent += 1
            time.sleep(0 if sent % 100 else 0.002)
    except BlockingIOError:
        pass
    case.check(100 < sent < 5000, f"{sent} questions were taken")
    t.unharmed()
    for _ in range(sent):
        case.check(p.recv(2), "an answer is missing")
    # what others send is not read: the channel goes
    q = t.b.register()
    q.send("OWN", gid=t.g, flags=ACCEPTOR, epoch=1)
    for i in range(4000):
        t.pa.raw(encode("NOTICE", t.key, gid=t.g, flags=0, fin=i))
        if i % 100 == 0:
            while t.pb.recv(0.01):
                pass
    t.b.proc.expect("does not read what the agent sends")
    while t.pb.recv(0.1):
        pass
    p = t.b.register()
    for i in range(60):
        p.send("OWN", gid=gid(), epoch=1)
    p.expect("RELEASE", reason=REASON.DENIED)
    t.b.proc.expect("connections-per-user")
    case.check(t.b.stats()["connections"] <= 50, "the limit")
    t.unharmed()


def random_messages(case):
    """Well-formed messages that mean nothing, and some that nearly do."""
    t = Pair(case)
    rnd = random.Random(case.seed)
    o, c = t.rig.connection(t.b, t.a)
    ids = [t.g] + [rnd.randbytes(16) for _ in range(3)]
    names = [n for n in MSGS if isinstance(n, str) and n not in ("REGISTER", "AGENT", "LINK")]

    def value(field, size):
        pick = {"gid": rnd.choice(ids), "svc": rnd.choice(ids), "host": rnd.choice([t.pa.hello.host, ids[1]]),
                "flags": rnd.randrange(32), "family": rnd.choice([0, 4, 6, 9]), "nonce": rnd.randrange(8),
                "epoch": rnd.randrange(4), "op": rnd.randrange(9), "reason": rnd.randrange(40),
                "count": rnd.choice([0, 1, 4096, 1 << 60]), "port": rnd.choice([0, 80, 7626])}
        if field in pick:
            return pick[field]
        return rnd.randbytes(16 if size == 16 else 32) if size in (16, 32) else 0
    fds = t.b.proc.fds()
    p = as_nobody(t.b)
    for i in range(4000):
        name = rnd.choice(names)
        values = {f: value(f, {"16s": 16, "32s": 32}.get(k, 0))
                  for f, k in zip(MSGS[name][3], re.findall(r"\d*[A-Za-z]", MSGS[name][4][1:]))}
        if name in ("OFFER", "HELLO"):
            values.update(tuple_of(o))
        fd = rnd.choice([None, o.fileno(), c.fileno()])
        image = memfd(b"x" * 4096, rnd.random() < 0.8) if name in ("IMAGE", "REPORT") else None
        try:
            p.raw(encode(name, **values), image if image is not None else fd)
            while p.recv(0):
                pass
        except (EOFError, OSError):
            p.close()
            os.seteuid(NOBODY)
            try:
                p = Proc(t.b)
            finally:
                os.seteuid(0)
        if image is not None:
            os.close(image)
        if i % 500 == 0:
            t.unharmed()
    p.close()
    t.unharmed()
    # images that were taken are parked; a query for an end nobody knows keeps dialling for hold-seconds (60)
    wait_for(lambda: t.b.proc.fds() - t.b.stats()["parked"] <= fds, 80, "its descriptors to go")


def descriptors(case):
    """No descriptors left: said, existing ones unharmed, and it goes on when there are some again."""
    t = Pair(case, nofile=40)
    procs = []
    for _ in range(40):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.setblocking(False)
        try:
            s.connect(t.b.socket())
            s.send(encode("REGISTER", pid=os.getpid(), start=1))
        except BlockingIOError:
            pass
        procs.append(s)
    t.b.proc.expect("Too many open files")
    t.pa.send("QUERY", gid=t.g, nonce=1)
    t.pa.expect("LOCATION", nonce=1)
    for s in procs:
        s.close()
    wait_for(lambda: t.b.register().hello, 5, "an answer")
    t.unharmed()


def disk(case):
    """A full directory: the offer is refused with the reason."""
    rig = Rig(case)
    a, b = rig.agents["a"], rig.agents["b"]
    os.makedirs(b.dir, mode=0o700)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=4,mode=700", "none", b.dir]).returncode:
        raise Skip("no mount")
    try:
        a.start(f"discovery.peers={b.ip}")
        b.start(f"discovery.peers={a.ip}")
        a.knows(b)
        b.knows(a)
        pa = a.register()
        o, _ = rig.connection(a, b)
        pa.send("OFFER", fd=o.fileno(), nonce=5, **tuple_of(o))
        pa.expect("REFUSE", nonce=5, reason=REASON.DIR)
        b.proc.expect("No space left")
        case.check(b.register().hello, "it does not answer any more")
    finally:
        b.proc.stop()
        subprocess.run(["umount", b.dir])


def starts(case):
    """What keeps it from starting is said, with the remedy."""
    rig = Rig(case)
    a = rig.agents["a"]

    def says(pattern, *sets, **how):
        a.start(*sets, wait=False, **how)
        case.check(a.proc.wait(5) != 0, "it started")
        a.proc.expect(pattern)
    says("key", key="/nonexistent/key")
    os.chmod(rig.key, 0o644)
    says("key")
    os.chmod(rig.key, 0o600)
    os.chmod(a.dir, 0o777)
    says("others can write")
    os.chmod(a.dir, 0o700)
    says("port 7626: cannot listen", "agent.listen=10.99.99.99")
    says("nosuch", "agent.user=nosuch")
    says("", "agent.nonsense=1")
    a.start()
    case.check(a.register().hello.port == 7626, "the port")
    a.proc.stop()
    # as another user than root: by itself, twice, and from the beginning
    os.chmod(case.dir, 0o755)
    for _ in range(2):
        a.start("agent.user=nobody")
        with open(f"/proc/{a.proc.pid}/status") as f:
            case.check(re.search(r"Uid:\t(\d+)", f.read())[1] == str(NOBODY), "it is still root")
        case.check(a.register().hello and a.markers("n"), "no answer")
        case.check(a.proc.stop() == 0 and not os.listdir(a.dir), "the end was not clean")
    os.chown(rig.key, NOBODY, NOBODY)
    a.start(uid=NOBODY)
    case.check(a.register().hello, "no answer")
    case.check(os.stat(a.socket()).st_mode & 0o777 == 0o600, "the socket's mode")
    case.check(a.proc.stop() == 0 and not os.listdir(a.dir), "the end was not clean")


CASES = [
    ("another cluster key", 20, cluster_key),
    ("a recorded key exchange", 30, recorded_kx),
    ("garbage on the port", 30, garbage),
    ("connections that say nothing", 30, slow_loris),
    ("garbage of a process", 30, local_garbage),
    ("another user", 30, other_user),
    ("floods and limits", 40, floods),
    ("random messages of a process", 150, random_messages),
    ("no descriptors left", 30, descriptors),
    ("a full disk", 30, disk),
    ("what keeps it from starting", 30, starts),
]
