"""Parked connections, and what roamctl asks for."""
import os
import secrets
import struct
import time

from harness import wait_for
from rig import (ACCEPTOR, FREEZE, LIST, MOVED, PARK, PEERS, REASON, THAW, Proc, Rig, addr16, gid, memfd,
                 own_both, upgrade)


def park(p, g, svc, data, port=0, seal=True, count=None):
    fd = memfd(data, seal)
    p.send("IMAGE", fd=fd, gid=g, flags=ACCEPTOR, epoch=1, svc=svc, port=port,
           count=len(data) if count is None else count)
    os.close(fd)


def take(case, p, g, data, who):
    m = p.expect("IMAGE", gid=g)
    case.check(m.fd is not None and m.count == len(data), f"{m}")
    case.check(os.pread(m.fd, len(data) + 1, 0) == data, "the image is another one")
    p.send("OWN", gid=g, flags=ACCEPTOR | MOVED, epoch=2, host=who.hello.host, family=4,
           addr=addr16(who.agent.ip), port=7626)
    case.check(who.expect("LOCATION", gid=g, nonce=0, epoch=2).host == p.hello.host, "the other end is told")


def here(case):
    a, b = Rig(case).pair()
    pa, pb = a.register(), b.register()
    g, *_ = upgrade(case.rig, a, b, pa, pb)
    own_both(a, b, pa, pb, g)
    svc, data = gid(), secrets.token_bytes(5000)
    park(pb, g, svc, data)
    wait_for(lambda: any(n.endswith(svc.hex()) and v == "1" for n, v in b.markers("p").items()), 2, "the marker")
    wait_for(lambda: any(n.endswith(svc.hex()) for n in a.markers("p")), 2, "the marker at the other host")
    pa.send("QUERY", gid=g, nonce=4)
    pa.expect("REFUSE", nonce=4, reason=REASON.PARKED)
    pb.close()
    # one that dies with it in its hands has not lost it
    p1 = b.register()
    p1.send("LISTEN", nonce=1, svc=svc)
    p1.expect("IMAGE", gid=g)
    p1.expect("REPORT", nonce=1, count=1)
    p1.close()
    p2 = b.register()
    p2.send("LISTEN", nonce=2, svc=svc)
    take(case, p2, g, data, pa)
    wait_for(lambda: not a.markers("p") and not b.markers("p"), 2, "the markers to go")
    case.check(b.stats()["parked"] == 0, "it is still parked")


def waiting_listener(case):
    """The next instance is there before the old one parks; by port."""
    a, b = Rig(case).pair()
    pa, pb, p2 = a.register(), b.register(), b.register()
    g, *_ = upgrade(case.rig, a, b, pa, pb)
    own_both(a, b, pa, pb, g)
    svc, data = gid(), secrets.token_bytes(100)
    for p in (pb, p2):
        p.send("LISTEN", nonce=1, svc=svc, port=80)
        p.expect("REPORT", nonce=1, count=0)
    park(pb, g, svc, data, port=80)
    take(case, p2, g, data, pa)
    pb.silent("IMAGE")
    case.check(not a.markers("p"), "what is parked by port is announced to another host")


def far(case, first):
    """The next instance is on another host; first: it listens before."""
    rig = Rig(case, 3)
    a, b, c = (rig.agents[n] for n in "abc")
    for x in (a, b, c):
        x.start("discovery.peers=" + " ".join(y.ip for y in (a, b, c) if y is not x))
    for x, y in ((a, b), (b, c), (c, a), (b, a), (c, b), (a, c)):
        x.knows(y)
    pa, pb, pc = a.register(), b.register(), c.register()
    svc = gid()
    if first:
        pc.send("LISTEN", nonce=1, svc=svc)
        pc.expect("REPORT", nonce=1, count=0)
    images = {}
    for size in (1, 3 << 20, 40000):
        g, *_ = upgrade(rig, a, b, pa, pb)
        own_both(a, b, pa, pb, g)
        images[g] = secrets.token_bytes(size)
    for g, data in images.items():
        park(pb, g, svc, data)
    if not first:
        wait_for(lambda: any(v == "3" for v in c.markers("p").values()), 3, "the marker")
        pc.send("LISTEN", nonce=1, svc=svc)
    began = time.monotonic()
    got = {}
    while len(got) < 3:
        m = pc.expect("IMAGE")
        got[m.gid] = os.pread(m.fd, m.count + 1, 0)
    case.note(f"{(time.monotonic() - began) * 1000:.0f} ms")
    case.check(got == images, "the images changed on their way")
    if not first:
        pc.expect("REPORT", nonce=1, count=3)
    for g in images:
        pc.send("OWN", gid=g, flags=ACCEPTOR | MOVED, epoch=2, host=pa.hello.host, family=4, addr=addr16(a.ip),
                port=7626)
        pa.expect("LOCATION", gid=g, nonce=0, epoch=2, host=pc.hello.host)
    wait_for(lambda: b.stats()["parked"] == 0 and c.stats()["parked"] == 0, 2, "the images to go")


def refused(case):
    a, b = Rig(case).pair()
    b.restart(f"discovery.peers={a.ip}", "limits.parked-bytes=100000", "limits.parked-seconds=1")
    pa, pb = a.register(), b.register()
    a.knows(b)
    g, *_ = upgrade(case.rig, a, b, pa, pb)
    own_both(a, b, pa, pb, g)
    svc = gid()
    for how in (dict(data=b"x" * 10, seal=False), dict(data=b"x" * 10, count=11), dict(data=b"x" * 100001)):
        park(pb, g, svc, **how)
        pb.expect("RELEASE", gid=g, reason=REASON.DENIED)
    pb.send("IMAGE", gid=g, flags=ACCEPTOR, epoch=1, svc=svc, count=5)         # without a memfd
    pb.expect("RELEASE", gid=g, reason=REASON.DENIED)
    pb2 = b.register()
    park(pb2, g, svc, b"x")                                                    # not its own
    pb2.expect("RELEASE", gid=g, reason=REASON.DENIED)
    park(pb, g, svc, b"x" * 100000)
    pb.close()
    wait_for(lambda: b.stats()["ends"] == 0, 2, "its end")
    pa.send("QUERY", gid=g, nonce=1)
    pa.expect("REFUSE", nonce=1, reason=REASON.PARKED)
    wait_for(lambda: b.stats()["images_expired"] == 1, 4, "the end of its time")
    pa.send("QUERY", gid=g, nonce=2)
    pa.expect("REFUSE", nonce=2, reason=REASON.GONE)
    case.check(b.stats()["parked_bytes"] == 0, "its memory is still counted")


def control(b, **cmd):
    p = Proc(b, register=False)
    p.send("COMMAND", **cmd)
    return p


def commands(case):
    a, b = Rig(case).pair()
    pa, pb = a.register(), b.register()
    g, *_ = upgrade(case.rig, a, b, pa, pb)
    own_both(a, b, pa, pb, g)
    # LIST: records of the right size, of a sealed memfd, with the kernel's word on the pid
    size = 200
    ctl = control(b, nonce=7, op=LIST)
    m = pb.expect("COMMAND", op=LIST)
    fd = memfd(struct.pack("=II", size, 1).ljust(size, b"\0") * 3)
    pb.send("REPORT", fd=fd, nonce=m.nonce, count=3)
    os.close(fd)
    m = ctl.expect("REPORT", nonce=7)
    data = os.pread(m.fd, 4096, 0)
    case.check(m.count == 3 and len(data) == 3 * size, f"{m.count} records, {len(data)} bytes")
    case.check(struct.unpack_from("=II", data, size) == (size, os.getpid()), "the pid")
    for seal, count in ((False, 3), (True, 4)):
        ctl = control(b, nonce=8, op=LIST)
        m = pb.expect("COMMAND", op=LIST)
        fd = memfd(b"\0" * size * 3, seal)
        pb.send("REPORT", fd=fd, nonce=m.nonce, count=count)
        os.close(fd)
        case.check(ctl.expect("REPORT", nonce=8).count == 0, "a bad list was taken")
    ctl = control(b, nonce=9, op=LIST)          # nobody answers: 2 s
    case.check(ctl.expect("REPORT", nonce=9).count == 0, "a list of nothing")
    # PEERS
    m = control(b, nonce=1, op=PEERS).expect("REPORT", nonce=1)
    line = os.pread(m.fd, 4096, 0).decode().split("\n")[0].split(" ")
    case.check(line[:4] == [pa.hello.host.hex(), a.ip, "7626", "up"] and int(line[4]) > 0, f"{line}")
    # FREEZE: the ends survive the process; a pid that is not there; a nonsense op
    ctl = control(b, nonce=2, op=FREEZE, pid=os.getpid())
    m = pb.expect("COMMAND", op=FREEZE)
    pb.send("REPORT", nonce=m.nonce, count=1)
    m = ctl.expect("REPORT", nonce=2)
    case.check((m.reason, m.count) == (0, 1), f"{m}")
    pb.close()
    wait_for(lambda: b.stats()["ends"] == 0, 2, "its end")
    pa.send("QUERY", gid=g, nonce=1)
    pa.expect("REFUSE", nonce=1, reason=REASON.FROZEN)
    with open("/proc/self/stat") as f:
        start = f.read().rsplit(")", 1)[1].split()[19]
    mark = os.path.join(b.dir, f"f.{os.getpid()}.{start}")
    os.symlink("x", mark)
    case.check(control(b, nonce=3, op=THAW, pid=os.getpid()).expect("REPORT", nonce=3).reason == 0, "thaw")
    case.check(not os.path.lexists(mark), "the file is still there")
    m = control(b, nonce=4, op=PARK, pid=99999999).expect("REPORT", nonce=4)
    case.check(m.reason == REASON.GONE, f"{m}")
    control(b, nonce=5, op=77).expect("REFUSE", nonce=5)


CASES = [
    ("parked here, taken here", 20, here),
    ("the next instance listens already", 20, waiting_listener),
    ("taken by another host", 40, lambda c: far(c, False)),
    ("another host listens already", 40, lambda c: far(c, True)),
    ("images that are refused, and that expire", 30, refused),
    ("commands", 30, commands),
]
