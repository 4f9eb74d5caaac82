"""The network changes, and who is looked for."""
import os
import secrets
import socket
import subprocess
import time

from harness import Skip, wait_for
from rig import ACCEPTOR, NETCHANGE, REASON, Rig, addr16, gid, own_both, tuple_of, upgrade


def cable(case):
    """The way to the other host is cut while a process asks; it is back: answered at once."""
    rig = Rig(case)
    a, b = rig.pair()
    pa, pb = a.register(), b.register()
    g, *_ = upgrade(rig, a, b, pa, pb)
    own_both(a, b, pa, pb, g)
    rig.cut("b")
    began = time.monotonic()
    pa.send("QUERY", gid=g, nonce=1)
    a.proc.expect("no answer to three pings", 5)
    case.note(f"noticed after {(time.monotonic() - began) * 1000:.0f} ms")
    pa.silent("LOCATION", 0.5)
    rig.cut("b", up=True)
    began = time.monotonic()
    pa.expect("LOCATION", nonce=1, seconds=5)
    took = (time.monotonic() - began) * 1000
    case.note(f"answered {took:.0f} ms after the way was back")
    case.check(took < 500 * float(os.environ.get("ROAM_TEST_SCALE", "1")), f"it took {took:.0f} ms")
    # the other direction works as well
    pb.send("QUERY", gid=g, flags=ACCEPTOR, nonce=2)
    pb.expect("LOCATION", nonce=2)
    # what could not be told meanwhile was kept
    rig.cut("b")
    pa.send("QUERY", gid=g, nonce=3)
    a.proc.expect(r"(?s)three pings.*three pings", 5)
    pa.send("RELEASE", gid=g, epoch=1, reason=REASON.CLOSED)
    rig.cut("b", up=True)
    wait_for(lambda: asks(pb, g), 5, "the release to arrive")


def asks(p, g):
    nonce = secrets.randbits(60)
    p.send("QUERY", gid=g, flags=ACCEPTOR, nonce=nonce)
    m = p.recv(1)
    while m and m.name not in ("REFUSE", "LOCATION"):
        m = p.recv(1)
    return m and m.name == "REFUSE" and m.reason in (REASON.CLOSED, REASON.GONE)


def address(case):
    """A host's address changes: processes are told, the markers follow, sessions too."""
    rig = Rig(case)
    a, b = rig.pair()
    pa, pb = a.register(), b.register()
    g, *_ = upgrade(rig, a, b, pa, pb)
    own_both(a, b, pa, pb, g)
    rig.ip("b", "addr", "add", "10.77.0.99/24", "dev", "eth0")
    pb.expect("COMMAND", op=NETCHANGE)
    wait_for(lambda: any(n.endswith("0a4d0063") for n in a.markers("h")), 3, "the new address' marker")
    rig.ip("b", "addr", "del", "10.77.0.2/24", "dev", "eth0")
    # deleting the first address takes its secondary ones with it: put it back
    rig.ip("b", "addr", "replace", "10.77.0.99/24", "dev", "eth0")
    began = time.monotonic()
    wait_for(lambda: not any(n.endswith("0a4d0002") for n in a.markers("h")), 5, "the old address' marker to go")
    pa.send("QUERY", gid=g, nonce=1)
    m = pa.expect("LOCATION", nonce=1, seconds=8)
    case.note(f"{(time.monotonic() - began) * 1000:.0f} ms")
    case.check(m.addr == addr16("10.77.0.99"), "the new address is not what a process is told")


def networks(case):
    """Only addresses in configured networks are asked; a failure is remembered."""
    rig = Rig(case, 3)
    a, b, c = (rig.agents[n] for n in "abc")
    a.start("discovery.networks=10.77.0.2/32 10.77.0.3/32")
    b.start()
    case.check(list(a.markers("n").values()) == ["10.77.0.2/32 10.77.0.3/32"], f"{a.markers('n')}")
    case.check(list(b.markers("n").values()) == ["-"], f"{b.markers('n')}")
    pa, pb = a.register(), b.register()
    upgrade(rig, a, b, pa, pb)
    for _ in range(2):          # no agent at c: refused, and dialled once
        o, _c = rig.connection(a, c)
        pa.send("OFFER", fd=o.fileno(), nonce=5, **tuple_of(o))
        pa.expect("REFUSE", nonce=5, reason=REASON.REMOTE)
    case.check(a.stats()["dials"] <= 3, f"{a.stats()['dials']} dials")
    # the other way there is no network: a has a session with b, so no dial is needed
    o, _c = rig.connection(b, c)
    before = b.stats()["dials"]
    pb.send("OFFER", fd=o.fileno(), nonce=6, **tuple_of(o))
    pb.expect("REFUSE", nonce=6, reason=REASON.REMOTE)
    case.check(b.stats()["dials"] == before, "an unknown network was probed")


def multicast(case):
    rig = Rig(case)
    a, b = rig.agents["a"], rig.agents["b"]
    for x in (a, b):
        rig.ip(x.name, "route", "add", "239.0.0.0/8", "dev", "eth0")
        x.start("discovery.multicast=yes", "discovery.interval=300")
    a.knows(b)
    b.knows(a)
    pa, pb = a.register(), b.register()
    upgrade(rig, a, b, pa, pb)


def nat(case):
    rig = Rig(case)
    a, b = rig.pair()
    pa = a.register()
    with b.listen(b.ip) as listener:
        port = listener.getsockname()[1]
        try:
            rig.run("ip", "netns", "exec", b.ns, "nft", "add table ip nat; add chain ip nat pre "
                    "{ type nat hook prerouting priority -100; }; add rule ip nat pre tcp dport 9999 "
                    f"redirect to :{port}")
        except (FileNotFoundError, subprocess.CalledProcessError) as e:
            raise Skip(f"no address translation here: {getattr(e, 'stderr', e)}".replace("\n", " ")) from None
        o = a.tcp(b.ip, 9999)
        c, _ = listener.accept()
        rig.open += [o, c]
        pa.send("OFFER", fd=o.fileno(), nonce=5, **tuple_of(o))
        pa.expect("REFUSE", nonce=5, reason=REASON.NAT)
    b.proc.expect("address translation in between")


def ipv6(case):
    rig = Rig(case)
    for n, x in (("a", 1), ("b", 2)):
        rig.ip(n, "addr", "add", f"fd00:77::{x}/64", "dev", "eth0", "nodad")
    a, b = rig.pair()
    pa, pb = a.register(), b.register()
    with b.inside():
        listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    port = listener.getsockname()[1]
    for host in ("fd00:77::2", b.ip):       # the second: IPv4 at an IPv6 socket
        o = a.tcp(host, port)
        c, _ = listener.accept()
        rig.open += [o, c]
        t = tuple_of(o)
        t["family"] = 6 if ":" in host else 4
        nonce = secrets.randbits(63) | 1
        pa.send("OFFER", fd=o.fileno(), nonce=nonce, **t)
        wait_for(lambda: any(v.endswith(f".{nonce:x}") for v in b.markers("o").values()), 3, f"the offer ({host})")
        pb.send("HELLO", fd=c.fileno(), nonce=nonce, **t)
        pa.expect("HELLO", nonce=nonce)
        pa.send("REFUSE", nonce=nonce, reason=REASON.BUSY)
        pb.expect("REFUSE", nonce=nonce, reason=REASON.BUSY)
    listener.close()


def many(case):
    """10,000 idle connections cost the agent less than 3 MB; all come back after a restart."""
    a, b = Rig(case).pair()
    pa, pb = a.register(), b.register()

    def rss():
        with open(f"/proc/{b.proc.pid}/status") as f:
            return int([x for x in f if x.startswith("VmRSS")][0].split()[1])
    ids = [gid() for _ in range(10000)]
    before = rss()
    for p, other, role in ((pa, b, 0), (pb, a, ACCEPTOR)):
        for g in ids:
            p.send("OWN", gid=g, flags=role, epoch=1, host=(pb if p is pa else pa).hello.host, family=4,
                   addr=addr16(other.ip), port=7626)
            while p.recv(0) is not None:
                pass
        wait_for(lambda: p.agent.stats()["ends"] == 10000, 10, "all ends")
    used = rss() - before
    case.note(f"{used} KiB")
    with open(case.config.roamd, "rb") as f:
        sanitized = b"__asan" in f.read()
    if not sanitized:
        case.check(used < 3072, f"{used} KiB")
    # a new session: all are told again
    before = b.stats()["sessions_opened"]
    a.proc.popen.kill()
    a.proc.wait(5)
    a.start(f"discovery.peers={b.ip}")
    wait_for(lambda: b.stats()["sessions_opened"] > before, 5, "a new session")
    pb.close()
    wait_for(lambda: b.stats()["ends"] == 0, 5, "all to go")


def crossed(case):
    """Both dial at once, again and again: one session is left, and it is the same one on both sides."""
    rig = Rig(case)
    a, b = rig.agents["a"], rig.agents["b"]
    for _ in range(6):
        a.start(f"discovery.peers={b.ip}", wait=False)
        b.start(f"discovery.peers={a.ip}", wait=False)
        a.proc.expect("is here: port")
        b.proc.expect("is here: port")
        a.knows(b)
        b.knows(a)
        pa, pb = a.register(), b.register()
        g, *_ = upgrade(rig, a, b, pa, pb)
        own_both(a, b, pa, pb, g)
        time.sleep(1.2)             # whatever was given up is closed after 1 s
        for x in (a, b):
            st = x.stats()
            case.check(st["sessions"] == 1 and st["sessions_lost"] == 0, f"{x.name}: {st['sessions']} sessions, "
                       f"{st['sessions_opened']} opened, {st['sessions_lost']} lost")
        pa.send("QUERY", gid=g, nonce=1)
        pa.expect("LOCATION", nonce=1)
        for p in (pa, pb):
            p.close()
        a.proc.popen.kill()
        b.proc.popen.kill()
        a.proc.wait(5)
        b.proc.wait(5)


def many_ask(case):
    """The way is cut, 2,000 connections ask; it is back: all are answered, soon."""
    rig = Rig(case)
    a, b = rig.pair()
    pa, pb = a.register(), b.register()
    ids = [gid() for _ in range(2000)]
    for p, other, role in ((pa, pb, 0), (pb, pa, ACCEPTOR)):
        for g in ids:
            p.send("OWN", gid=g, flags=role, epoch=1, host=other.hello.host, family=4, addr=addr16(other.agent.ip),
                   port=7626)
            while p.recv(0):
                pass
        wait_for(lambda: p.agent.stats()["ends"] == len(ids), 10, "all ends")
    while pa.recv(0.2):
        pass
    rig.cut("b")
    for i, g in enumerate(ids):
        pa.send("QUERY", gid=g, nonce=i + 1)
    a.proc.expect("no answer to three pings", 5)
    rig.cut("b", up=True)
    began, left = time.monotonic(), set(range(1, len(ids) + 1))
    while left:
        m = pa.recv(5)
        case.check(m, f"{len(left)} are not answered")
        if m.name == "LOCATION":
            left.discard(m.nonce)
    case.note(f"{(time.monotonic() - began) * 1000:.0f} ms")
    case.check(a.stats()["queries_open"] == 0, "questions are left")


CASES = [
    ("many ask during an outage", 40, many_ask),
    ("both dial at once", 40, crossed),
    ("the way is cut and comes back", 30, cable),
    ("an address changes", 30, address),
    ("networks", 30, networks),
    ("multicast", 20, multicast),
    ("address translation", 20, nat),
    ("IPv6, and IPv4 at IPv6 sockets", 20, ipv6),
    ("10,000 connections", 60, many),
]
