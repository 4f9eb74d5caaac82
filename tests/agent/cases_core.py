"""What an agent is for: offers, places, reconnects; and that it may come and go."""
import os
import re
import secrets
import signal
import socket
import time

from harness import wait_for
from rig import ACCEPTOR, CLOSED, MOVED, REASON, Rig, addr16, decode, encode, gid, own_both, tuple_of, upgrade


def meets(case):
    a, b = Rig(case).pair()
    pa, pb = a.register(), b.register()
    case.check(pa.hello.port == 7626, f"port {pa.hello.port}")
    g, _, o, c = upgrade(case.rig, a, b, pa, pb)
    wait_for(lambda: not b.markers("o"), 2, "the offer's file to go")
    la, lb = own_both(a, b, pa, pb, g)
    case.check(la.addr == addr16(b.ip) and la.port == 7626 and la.host == pb.hello.host, "where b is")
    case.check(lb.addr == addr16(a.ip) and lb.host == pa.hello.host, "where a is")


def queries(case):
    a, b = Rig(case).pair()
    pa, pb = a.register(), b.register()
    g, *_ = upgrade(case.rig, a, b, pa, pb)
    la, _ = own_both(a, b, pa, pb, g)
    began = time.monotonic()
    pa.send("QUERY", gid=g, nonce=7, epoch=1)
    m = pa.expect("LOCATION", nonce=7)
    case.note(f"a query took {(time.monotonic() - began) * 1000:.1f} ms")
    case.check((m.addr, m.flags, m.epoch) == (la.addr, ACCEPTOR, 1), "the answer")
    # killed: gone at once
    pb.close()
    pa.send("QUERY", gid=g, nonce=8, epoch=1)
    while True:
        m = pa.recv()
        if m.name == "REFUSE":
            break
        pa.send("QUERY", gid=g, nonce=8, epoch=1)
    case.check(m.reason == REASON.GONE, f"reason {m.reason}")


def reconnects(case):
    a, b = Rig(case).pair()
    pa, pb = a.register(), b.register()
    g, key, *_ = upgrade(case.rig, a, b, pa, pb)
    own_both(a, b, pa, pb, g)
    req = encode("REQ", key, gid=g, epoch=1, attempt=1, nonce=99, flags=0, unread=3)
    for cut in (len(req), 8, 3, 50):            # also in pieces
        s = a.tcp(b.ip)
        s.sendall(req[:cut])
        if cut < len(req):
            time.sleep(0.02)
            s.sendall(req[cut:])
        s.sendall(b"abcstream")
        m = pb.expect("REQ", gid=g)
        case.check(m.raw == req, "the REQ changed on its way")
        with socket.socket(fileno=os.dup(m.fd)) as link:
            link.settimeout(3)
            got = b""
            while len(got) < 9:
                got += link.recv(100)
            case.check(got == b"abcstream", f"what followed is {got!r}")
            link.sendall(b"OK")
        case.check(s.recv(10) == b"OK", "the way back")
        s.close()
    # an end nobody has; one that was closed
    pb.send("RELEASE", gid=g, flags=ACCEPTOR, epoch=1, reason=REASON.CLOSED)
    wait_for(lambda: b.stats()["ends"] == 0, 2, "the release")
    for what, reason in ((g, REASON.GONE), (gid(), REASON.UNKNOWN)):
        s = a.tcp(b.ip, seconds=5)
        s.sendall(encode("REQ", key, gid=what, epoch=1, attempt=1, nonce=5) + b"x" * 50000)
        m = decode(s.recv(200))
        case.check((m.name, m.reason, m.nonce) == ("REFUSE", reason, 5), f"refused with {m}")
        s.close()


def notices(case):
    a, b = Rig(case).pair()
    pa, pb = a.register(), b.register()
    g, key, *_ = upgrade(case.rig, a, b, pa, pb)
    own_both(a, b, pa, pb, g)
    raw = encode("NOTICE", key, gid=g, flags=ACCEPTOR | CLOSED, fin=12345)
    pb.raw(raw)
    case.check(pa.expect("NOTICE").raw == raw, "the notice changed on its way")
    # of an end that one does not hold: not passed on
    pb.raw(encode("NOTICE", key, gid=g, flags=0, fin=1))
    pa.silent("NOTICE")


def moves(case):
    """An end moves from b to c: a is told, the old process is fenced."""
    rig = Rig(case, 3)
    a, b, c = (rig.agents[n] for n in "abc")
    for x in (a, b, c):
        x.start("discovery.peers=" + " ".join(y.ip for y in (a, b, c) if y is not x))
    for x, y in ((a, b), (b, c), (c, a), (b, a), (c, b), (a, c)):
        x.knows(y)
    pa, pb, pc = a.register(), b.register(), c.register()
    g, *_ = upgrade(rig, a, b, pa, pb)
    own_both(a, b, pa, pb, g)
    pc.send("OWN", gid=g, flags=ACCEPTOR | MOVED, epoch=2, host=pa.hello.host, family=4, addr=addr16(a.ip), port=7626)
    m = pa.expect("LOCATION", gid=g, nonce=0)
    case.check((m.addr, m.epoch, m.host) == (addr16(c.ip), 2, pc.hello.host), f"a was told {m}")
    m = pb.expect("RELEASE", gid=g)
    case.check((m.reason, m.flags) == (REASON.FENCED, ACCEPTOR), f"b was told {m}")
    m = pc.expect("LOCATION", gid=g)
    case.check((m.addr, m.flags) == (addr16(a.ip), 0), "c knows a")
    # the old one comes back: fenced; whoever asks b hears of c
    pb.send("OWN", gid=g, flags=ACCEPTOR, epoch=1)
    pb.expect("RELEASE", gid=g, reason=REASON.FENCED, epoch=2)
    pa.send("QUERY", gid=g, nonce=3, epoch=1, host=pb.hello.host, family=4, addr=addr16(b.ip), port=7626)
    case.check(pa.expect("LOCATION", nonce=3).addr == addr16(c.ip), "the query's answer")
    for step in ("step 1 REQUEST-QUERY", "step 4 LOCATE", "step 3 RELEASE"):
        case.check(any(step in x.proc.err() for x in (a, b, c)), f"no log line of {step}")


def forked(case):
    """An end is gone when its last process is."""
    a, b = Rig(case).pair()
    pa, pb, pb2 = a.register(), b.register(), b.register()
    g, *_ = upgrade(case.rig, a, b, pa, pb)
    own_both(a, b, pa, pb, g)
    pb2.send("OWN", gid=g, flags=ACCEPTOR, epoch=1)
    pb2.expect("LOCATION", gid=g)
    pb.close()
    wait_for(lambda: b.stats()["ends"] == 1, 2, "the first to leave")
    pa.send("QUERY", gid=g, nonce=1)
    pa.expect("LOCATION", nonce=1)
    pb2.close()
    wait_for(lambda: b.stats()["ends"] == 0, 2, "the second to leave")
    pa.send("QUERY", gid=g, nonce=2)
    pa.expect("REFUSE", nonce=2, reason=REASON.GONE)


def frozen(case):
    a, b = Rig(case).pair()
    pa, pb = a.register(), b.register()
    g, *_ = upgrade(case.rig, a, b, pa, pb)
    own_both(a, b, pa, pb, g)
    pb.send("RELEASE", gid=g, flags=ACCEPTOR, epoch=1, reason=REASON.FROZEN)
    pb.close()
    wait_for(lambda: b.stats()["ends"] == 0, 2, "the release")
    pa.send("QUERY", gid=g, nonce=1)
    pa.expect("REFUSE", nonce=1, reason=REASON.FROZEN)
    pb = b.register()
    pb.send("OWN", gid=g, flags=ACCEPTOR, epoch=2, host=pa.hello.host, family=4, addr=addr16(a.ip), port=7626)
    pb.expect("LOCATION", gid=g, flags=0)
    case.check(pa.expect("LOCATION", gid=g, nonce=0).epoch == 2, "a is told")


def restarts(case, kill):
    """An agent goes and comes back: its processes come back to it, askers wait for them."""
    a, b = Rig(case).pair()
    pa, pb = a.register(), b.register()
    g, key, *_ = upgrade(case.rig, a, b, pa, pb)
    own_both(a, b, pa, pb, g)
    b.proc.popen.kill() if kill else b.proc.stop()
    b.proc.wait(5)
    if not kill:
        left = [n for n in os.listdir(b.dir)]
        case.check(not left, f"left behind: {left}")
    case.check(pb.closed(), "the process did not notice")
    pa.send("QUERY", gid=g, nonce=1)            # nobody there: held
    pa.silent("REFUSE")
    b.start(f"discovery.peers={a.ip}")
    s = None
    began = time.monotonic()
    while not s:
        try:
            s = a.tcp(b.ip)
        except ConnectionError:
            pass
    s.sendall(encode("REQ", key, gid=g, epoch=1, attempt=1, nonce=5))
    time.sleep(0.2)
    pb = b.register()
    pb.send("OWN", gid=g, flags=ACCEPTOR, epoch=1, host=pa.hello.host, family=4, addr=addr16(a.ip), port=7626)
    pb.expect("REQ", gid=g)
    m = pa.expect("LOCATION", nonce=1)
    case.note(f"answered {(time.monotonic() - began) * 1000:.0f} ms after the start")
    case.check(m.addr == addr16(b.ip), "where b is")
    s.close()


def second(case):
    """A second agent of the same place refuses to start and harms nothing."""
    a, b = Rig(case).pair()
    p = a.register()
    first = a.proc
    a.start(wait=False)
    case.check(a.proc.wait(5) == 1, "it did not refuse")
    case.check("another agent" in a.proc.err(), "it does not say why")
    a.proc = first
    p.send("QUERY", gid=gid(), nonce=1)
    case.check(a.register().hello, "the first one answers no more")
    first.signal(signal.SIGINT)
    case.check(first.wait(5) == 0 and not os.listdir(a.dir), "the end was not clean")


def withdrawn(case):
    a, b = Rig(case).pair()
    pa, pb = a.register(), b.register()
    for how in ("refuse", "killed", "agent"):
        o, c = case.rig.connection(a, b)
        t, nonce = tuple_of(o), secrets.randbits(63) | 1
        pa.send("OFFER", fd=o.fileno(), nonce=nonce, **t)
        wait_for(lambda: b.markers("o"), 3, "the offer's file")
        if how == "refuse":
            pa.send("REFUSE", nonce=nonce, reason=REASON.CLOSED)
        elif how == "killed":
            pa.close()
            pa = a.register()
        else:
            a.proc.popen.kill()
        wait_for(lambda: not b.markers("o"), 3, f"the offer's file to go ({how})")
        pb.send("HELLO", fd=c.fileno(), nonce=nonce, **t)
        pb.expect("REFUSE", nonce=nonce, reason=REASON.GONE)


def another(case):
    """Another host lives at a configured address: it is met once, not again and again for the old one's sake."""
    rig = Rig(case)
    a, b = (rig.agents[n] for n in "ab")
    a.start(f"discovery.peers={b.ip}")
    b.start()
    a.knows(b)
    b.restart("agent.host-id=" + "7" * 32, kill=True)
    wait_for(lambda: "session with host 77777777" in a.proc.err(), 8, "the new host")
    time.sleep(3)           # the old one is looked for after 0.1 s, 0.2, 0.4 ...
    n = len(re.findall("session with host 77777777", a.proc.err()))
    case.check(n <= 2, f"{n} sessions")


CASES = [
    ("another host at a configured address", 20, another),
    ("two hosts meet", 20, meets),
    ("a query is answered by the other agent", 20, queries),
    ("a reconnect is passed on, byte for byte", 30, reconnects),
    ("notices are relayed", 20, notices),
    ("an end moves", 30, moves),
    ("a forked end", 20, forked),
    ("a frozen end keeps its place", 20, frozen),
    ("the agent ends and comes back", 30, lambda c: restarts(c, False)),
    ("the agent is killed and comes back", 30, lambda c: restarts(c, True)),
    ("a second agent", 20, second),
    ("offers are withdrawn", 20, withdrawn),
]
