"""The way between two agents is measured: when, how much, who is told, and who is not believed."""
import os
import secrets
import socket
import subprocess
import time
import types

from harness import Skip, wait_for
from rig import ACCEPTOR, HOSTS, LEAST, TRAIN, Proc, Rig, encode, gid, own_both, tuple_of, upgrade

MIB = 1 << 20


def hosts(agent):
    """way -> what roamctl would show, of the one other host."""
    p = Proc(agent, register=False)
    p.send("COMMAND", nonce=1, op=HOSTS)
    m = p.expect("REPORT", nonce=1)
    text = os.pread(m.fd, 65536, 0).decode()
    p.close()
    names = "host addr rtt_us way rate kind confidence age_ms source".split()
    rows = [types.SimpleNamespace(**dict(zip(names, (int(w) if w.isdigit() and n not in ("host", "addr") else w
                                                     for n, w in zip(names, line.split())))))
            for line in text.splitlines()]
    return {r.way: r for r in rows}


def measured(agent, seconds=8):
    """Waits until both ways are known from trains."""
    def known():
        h = hosts(agent)
        return h if len(h) == 2 and all(r.source == "train" for r in h.values()) else None
    return wait_for(known, seconds, f"the rates at {agent.name}")


def shape(rig, name, rate, burst="32kb"):
    """What this host sends."""
    try:
        rig.run("tc", "-n", f"{rig.prefix}-{name}", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", rate,
                "burst", burst, "latency", "400ms")
    except FileNotFoundError:
        raise Skip("tc is not installed") from None
    except subprocess.CalledProcessError as e:
        raise Skip("no token bucket: " + " ".join(e.stderr.split())) from None


def within(case, stats, limit, what):
    for n in ("probe_bytes_in", "probe_bytes_out"):
        case.check(0 < stats[n] <= limit, f"{what}: {n} {stats[n]}, not at most {limit}")


def first_contact(case):
    """Both know both ways; a process hears it with the place; not more than the limit was sent."""
    a, b = Rig(case).pair()
    ha, hb = measured(a), measured(b)
    for h in (ha, hb):
        case.check(all(r.rate > 1_000_000 for r in h.values()), f"{h}")
        case.note(" ".join(f"{r.way} {r.rate * 8 / 1e6:.0f} Mbit/s {r.kind} {r.confidence} %" for r in h.values()))
    case.check(ha["to"].rate == hb["from"].rate and ha["from"].rate == hb["to"].rate, "the two differ")
    within(case, a.stats(), MIB, "a")
    within(case, b.stats(), MIB, "b")
    pa, pb = a.register(), b.register()
    g, *_ = upgrade(case.rig, a, b, pa, pb)
    la, _ = own_both(a, b, pa, pb, g)
    m = pa.expect("RATE", host=la.host)
    case.check(m.rate == ha["to"].rate and m.flags & TRAIN and m.gid == bytes(16), f"told {m.rate}")
    m = pb.expect("RATE")
    case.check(m.rate == ha["from"].rate, f"told {m.rate}")


def told_later(case):
    """A process that was there before the result hears it when it comes."""
    rig = Rig(case)
    a, b = rig.agents["a"], rig.agents["b"]
    shape(rig, "a", "1mbit", "4kb")
    a, b = rig.pair()
    pa, pb = a.register(), b.register()
    g, *_ = upgrade(rig, a, b, pa, pb)
    own_both(a, b, pa, pb, g)
    m = pa.expect("RATE", seconds=8)
    case.check(m.rate and abs(m.rate * 8 - 1e6) < 250_000 or m.confidence < 30, f"{m.rate * 8} bit/s")


def cached(case):
    """A session that comes back does not measure again; an old result and a new connection do."""
    rig = Rig(case)
    a, b = rig.pair()
    measured(a)
    measured(b)
    began = a.stats()["probe_bytes_out"]
    rig.cut("b")
    pa = a.register()
    pa.send("QUERY", gid=gid(), nonce=1)        # somebody waits, so the silence is noticed
    a.proc.expect("no answer to three pings", 8)
    rig.cut("b", up=True)
    wait_for(lambda: a.stats()["sessions"] == 1, 8, "the session to be back")
    case.check(hosts(a)["to"].source == "train", "the result is gone")
    pb = b.register()
    g, *_ = upgrade(rig, a, b, pa, pb)
    own_both(a, b, pa, pb, g)
    time.sleep(0.6)     # longer than an agent waits before it begins
    s = a.stats()
    case.check(s["probe_bytes_out"] == began, f"{s['probe_bytes_out'] - began} bytes more were sent")


def again(case):
    """With an old result a new connection begins another one; without a connection nobody does."""
    rig = Rig(case)
    a, b = rig.agents["a"], rig.agents["b"]
    # the least: results are good for 10 s
    a.start(f"discovery.peers={b.ip}", "limits.probe-seconds=10")
    b.start("limits.probe-seconds=10")
    a.knows(b)
    measured(a)
    time.sleep(10.5)
    case.check(a.stats()["probes"] == 1, "measured without a reason")
    pa, pb = a.register(), b.register()
    for _ in range(3):
        g, *_ = upgrade(rig, a, b, pa, pb)
        own_both(a, b, pa, pb, g)
    wait_for(lambda: a.stats()["probes"] == 2, 5, "the second one")
    time.sleep(0.5)
    case.check(a.stats()["probes"] == 2, "more than one")
    within(case, a.stats(), 2 * MIB, "a")


def off(case):
    """probe = no on one side is enough."""
    rig = Rig(case)
    a, b = rig.agents["a"], rig.agents["b"]
    a.start(f"discovery.peers={b.ip}")
    b.start(f"discovery.peers={a.ip}", "discovery.probe=no")
    a.knows(b)
    b.knows(a)
    time.sleep(0.8)
    for x in (a, b):
        s = x.stats()
        case.check(not s["probes"] and not s["probe_bytes_in"] and not s["probe_bytes_out"], f"{x.name} measured")
        case.check(all(r.source == "-" and not r.rate for r in hosts(x).values()), "a result out of nothing")


def bounded(case):
    """The smaller limit of the two counts, in both directions."""
    rig = Rig(case)
    a, b = rig.agents["a"], rig.agents["b"]
    a.start(f"discovery.peers={b.ip}", "limits.probe-bytes=1M")
    b.start(f"discovery.peers={a.ip}", "limits.probe-bytes=20K")
    a.knows(b)
    measured(a)
    within(case, a.stats(), 20 << 10, "a")
    within(case, b.stats(), 20 << 10, "b")


def counted(agent, dev="eth0"):
    with agent.inside():
        with open("/proc/net/dev") as f:
            for line in f:
                if line.strip().startswith(dev + ":"):
                    return int(line.split(":")[1].split()[8])
    return 0


def slow(case):
    """10 Mbit/s: right, with few bytes, and questions are answered meanwhile."""
    rig = Rig(case)
    for n in "ab":
        shape(rig, n, "10mbit")
    a, b = rig.pair()
    pa, pb = a.register(), b.register()
    g, *_ = upgrade(rig, a, b, pa, pb)
    own_both(a, b, pa, pb, g)
    longest = 0
    end = time.monotonic() + 8
    while time.monotonic() < end:
        began = time.monotonic()
        nonce = secrets.randbits(60)
        pa.send("QUERY", gid=g, nonce=nonce)
        pa.expect("LOCATION", nonce=nonce)
        longest = max(longest, time.monotonic() - began)
        h = hosts(a)
        if all(r.source == "train" for r in h.values()):
            break
    case.note(f"the slowest answer came after {longest * 1000:.0f} ms; {counted(a)} bytes were sent in all")
    case.check(longest < 0.25 * float(os.environ.get("ROAM_TEST_SCALE", "1")), f"an answer took {longest * 1000:.0f} ms")
    for r in hosts(a).values():
        case.note(f"{r.way} {r.rate * 8 / 1e6:.2f} Mbit/s, {r.confidence} %")
        case.check(abs(r.rate * 8 - 1e7) < 2.5e6 or r.confidence < 30, f"{r.way}: {r.rate * 8} bit/s")
    # 200 ms of it
    within(case, a.stats(), 250_000, "a")


def reports(case):
    """What a process sees is kept, and told to the other agent; of its own connections only."""
    rig = Rig(case)
    a, b = rig.agents["a"], rig.agents["b"]
    a.start(f"discovery.peers={b.ip}")
    b.start(f"discovery.peers={a.ip}", "discovery.probe=no")
    a.knows(b)
    b.knows(a)
    pa, pb, stranger = a.register(), b.register(), a.register()
    g, *_ = upgrade(rig, a, b, pa, pb)
    own_both(a, b, pa, pb, g)
    # not one that holds the end; not of that role; not a connection that is known
    stranger.send("RATE", gid=g, rate=1, confidence=90)
    pa.send("RATE", gid=g, flags=ACCEPTOR, rate=1, confidence=90)
    pa.send("RATE", gid=gid(), rate=1, confidence=90)
    # nothing, and too much
    pa.send("RATE", gid=g, rate=0, confidence=90)
    pa.send("RATE", gid=g, rate=5, confidence=0)
    pa.send("RATE", gid=g, rate=2**64 - 1, confidence=255, age_ms=2**32 - 1, rtt_us=2**32 - 1, flags=LEAST | 0xf0)
    pa.send("QUERY", gid=g, nonce=5)
    pa.expect("LOCATION", nonce=5)
    r = hosts(a)["to"]
    case.check(r.rate <= 2**50 and r.confidence <= 95, f"{r}")
    case.check(a.stats()["rate_reports"] == 3, f"{a.stats()['rate_reports']} reports were taken")
    pa.send("RATE", gid=g, rate=1_250_000, confidence=90, rtt_us=900)
    wait_for(lambda: hosts(a)["to"].rate == 1_250_000, 3, "the report")
    r = hosts(a)["to"]
    case.check((r.source, r.kind, r.rtt_us) == ("connections", "measured", 900) and r.confidence >= 80, f"{r}")
    # the other agent hears it, at most once a second
    time.sleep(1.1)
    pa.send("RATE", gid=g, rate=1_300_000, confidence=90)
    wait_for(lambda: hosts(b)["from"].rate == 1_300_000, 3, "the report at the other host")
    # a new process starts with it
    p2 = a.register()
    p2.send("OWN", gid=g, epoch=1)
    m = p2.expect("RATE")
    case.check(m.rate == 1_300_000 and not m.flags & TRAIN, f"told {m.rate}")


def strangers(case):
    """A train that nobody asked for; one with a wrong key while another is expected."""
    rig = Rig(case)
    a, b = rig.pair()
    measured(a)
    garbage = b.stats()["refused_garbage"]
    for raw in (encode("TRAIN", nonce=1, count=4096) + bytes(4096), encode("TRAIN", secrets.token_bytes(32), nonce=1),
                encode("SEEN", nonce=1, count=1, took=1)):
        s = a.tcp(b.ip)
        s.sendall(raw)
        try:
            case.check(not s.recv(100), "it was answered")
        except ConnectionResetError:
            pass
        s.close()
    case.check(b.stats()["refused_garbage"] == garbage + 3, "not counted")
    p = b.register()
    p.send("PROBE", nonce=1)
    case.check(p.closed(), "a process may not ask for one")
    measured(a)


def killed(case):
    """The other agent dies in the middle; the next one is measured again."""
    rig = Rig(case)
    for n in "ab":
        shape(rig, n, "256kbit", "2kb")
    a, b = rig.pair()
    wait_for(lambda: counted(b) > 3500 or counted(a) > 3500, 8, "a train to be under way")
    b.restart(f"discovery.peers={a.ip}", kill=True)
    b.knows(a)
    for x in (a, b):
        h = measured(x, 25)
        case.check(all(abs(r.rate * 8 - 256e3) < 64e3 or r.confidence < 30 for r in h.values()), f"{h}")


def alone(case):
    """Somebody at the port who is no agent, and an address in a network that is not ours: nothing is sent there."""
    rig = Rig(case, 3)
    a, b, c = (rig.agents[n] for n in "abc")
    a.start(f"discovery.peers={b.ip}", f"discovery.networks={b.ip}/32")
    b.start()
    a.knows(b)
    measured(a)
    with c.inside():
        listener = socket.create_server((c.ip, 7626))
    rig.open.append(listener)
    pa = a.register()
    with c.listen(c.ip) as there:
        o = a.tcp(c.ip, there.getsockname()[1])
        rig.open.append(o)
        pa.send("OFFER", fd=o.fileno(), nonce=9, **tuple_of(o))
        pa.expect("REFUSE", nonce=9)
    listener.settimeout(0.8)
    try:
        listener.accept()
        case.check(False, "an unknown network was probed")
    except socket.timeout:
        pass


CASES = [
    ("first contact", 20, first_contact),
    ("a process hears of it later", 20, told_later),
    ("a result is kept", 30, cached),
    ("an old result and a new connection", 40, again),
    ("probe = no", 20, off),
    ("the smaller limit counts", 20, bounded),
    ("10 Mbit/s", 25, slow),
    ("reports of processes", 20, reports),
    ("trains that nobody asked for", 20, strangers),
    ("the other agent is killed", 60, killed),
    ("who is no agent is not measured", 20, alone),
]
