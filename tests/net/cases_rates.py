"""How fast is the way to another host?  Agents measure it over cables that are shaped.

A cable's rate is that of a token bucket at the router, which counts what went
through it. An estimate is right within a quarter, or it says that it is not sure.
"""
import json
import re
import shutil
import subprocess
import time

import agents
import walkers
from cases_lab import with_lab
from farwire import Farwire
from harness import Skip, wait_for

SURE = 30           # percent: below it a library does nothing (lib/decide.c)
KBIT, MBIT = 1000, 1000000


def tc(host, *argv):
    if not shutil.which("tc"):
        raise Skip("tc is not installed")
    done = subprocess.run(["tc", *map(str, argv)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          preexec_fn=host.net.enter)
    if done.returncode:
        raise Skip("no such queue here: " + " ".join(done.stderr.split()))
    return done.stdout


def shape(lab, host, rate, burst, kind="tbf"):
    """What goes to this host."""
    dev = f"r{host.name}"
    if kind == "tbf":
        tc(lab.R, "qdisc", "replace", "dev", dev, "root", "handle", "1:", "tbf", "rate", rate, "burst", burst,
           "latency", "300ms")
    else:
        tc(lab.R, "qdisc", "replace", "dev", dev, "root", "handle", "1:", "htb", "default", "1")
        tc(lab.R, "class", "replace", "dev", dev, "parent", "1:", "classid", "1:1", "htb", "rate", rate, "ceil", rate,
           "burst", burst, "cburst", burst)


def passed(lab, host):
    """Bytes that have gone to this host, with all headers."""
    out = tc(lab.R, "-s", "qdisc", "show", "dev", f"r{host.name}")
    return int(re.search(r"Sent (\d+) bytes", out)[1])


def ways(host):
    """way -> row of roamctl hosts."""
    return {r["way"]: r for r in json.loads(host.ctl("hosts", "--json"))["hosts"]}


def measured(host, seconds=20, source="train"):
    def known():
        w = ways(host)
        return w if len(w) == 2 and all(r["rate"] and source in ("any", r["source"])
                                    for r in w.values()) else None
    return wait_for(known, seconds, f"the rates at {host.name}")


def judge(case, what, row, rate):
    got = row["rate"] * 8
    case.note(f"{what}: {'>= ' if row['kind'] == 'least' else ''}{got / 1e6:.2f} Mbit/s, {row['confidence']} %")
    right = abs(got - rate) <= rate / 4
    case.check(right or row["confidence"] < SURE, f"{what}: {got} bit/s with {row['confidence']} %, it is {rate}")


def shaped(case, lab, there, back, burst="32kb", kind="tbf", sure=False, most=None):
    """there, back: bit/s from A to B, and from B to A. most: bytes that a direction may take."""
    a, b = lab.A, lab.B
    shape(lab, b, there, burst, kind)
    shape(lab, a, back, burst, kind)
    for _ in range(3 if sure else 1):       # a busy machine disturbs a train; not each time
        before = {h: passed(lab, h) for h in (a, b)}
        agents.start_agents(lab, [a, b])
        wa, wb = measured(a), measured(b)
        judge(case, "A to B", wa["to"], there)
        judge(case, "B to A", wa["from"], back)
        case.check(wa["to"]["rate"] == wb["from"]["rate"] and wa["from"]["rate"] == wb["to"]["rate"],
                   "the two hosts do not say the same")
        for h in (a, b):
            took = passed(lab, h) - before[h]
            # what else the agents say: names, addresses, keys
            limit = (most or 1 << 20) * 1.12 + 20_000
            case.check(took <= limit, f"{took} bytes went to {h.name}, at most {limit:.0f} may")
            case.note(f"{took} bytes went to {h.name}")
        if not sure or min(r["confidence"] for r in wa.values()) >= SURE:
            return
        a.agent.stop()
        b.agent.stop()
    case.check(False, "it is never sure")


def once(case, lab):
    """Agents that talk on, and connections that begin, do not begin it again."""
    a, b = lab.A, lab.B
    shape(lab, b, 100 * MBIT, "64kb")
    shape(lab, a, 100 * MBIT, "64kb")
    agents.start_agents(lab, [a, b])
    measured(a)
    before = a.agent.stats()
    for _ in range(2):
        c, s = walkers.pair(lab, a, b, rate=200_000)
        walkers.verdict(case, c, s)
        s.proc.stop()
    time.sleep(0.5)         # more than the agents wait before one
    after = a.agent.stats()
    for n in ("probes", "probe_bytes_in", "probe_bytes_out"):
        case.check(before[n] == after[n], f"{n}: {before[n]}, then {after[n]}")


def told(case, lab):
    """The libraries hear it when their connection has been upgraded."""
    a, b = lab.A, lab.B
    shape(lab, b, 10 * MBIT, "16kb")
    shape(lab, a, 100 * MBIT, "64kb")
    agents.start_agents(lab, [a, b])
    measured(a)
    measured(b)
    debug = case.environ(ROAM_LOG="debug")
    c, s = walkers.pair(lab, a, b, rate=200_000, env=debug, server_how=dict(env=debug))
    for w, host, rate in ((c, a, ways(a)["to"]["rate"]), (s, b, ways(b)["to"]["rate"])):
        m = wait_for(lambda w=w: re.search(r"agent: rate=(\d+) confidence=(\d+)", w.proc.err()), 5,
                     f"the library at {host.name} to be told")
        case.check(int(m[1]) == rate, f"{host.name}: it was told {m[1]}, the agent knows {rate}")
    walkers.verdict(case, c, s)


def far(case, lab, delay, rate, control=None):
    """A long way: no train may wait for acknowledgements, or be paced, in either direction."""
    a, b = lab.A, lab.B
    w = Farwire(lab, a, b, delay, rate)
    for h in (a, b):
        if control:
            try:
                h.sysctl(net__ipv4__tcp_congestion_control=control)
            except OSError:
                raise Skip(f"no congestion control {control}") from None
    seen = []
    for _ in range(3):      # a busy machine disturbs a train, and says so; not each time
        a.start_agent(discovery__peers=w.addr[1])
        b.start_agent()
        m = measured(a, 20)
        judge(case, "A to B", m["to"], rate)
        judge(case, "B to A", m["from"], rate)
        case.check(m["to"]["rtt_us"] >= 2 * delay * 1e6, f"a round trip of {m['to']['rtt_us']} us")
        # a window for each round trip would be 2.9 Mbit/s at 40 ms
        seen.append([row["rate"] * 8 for row in m.values()])
        if min(seen[-1]) > rate / 2:
            return
        a.agent.stop()
        b.agent.stop()
    case.check(False, f"it is never {rate} bit/s, but {seen}")


def another_way(case, lab):
    """The host's address changes: what was measured is of another way now."""
    a, b = lab.A, lab.B
    shape(lab, b, 10 * MBIT, "16kb")
    shape(lab, a, 10 * MBIT, "16kb")
    agents.start_agents(lab, [a, b])
    judge(case, "first", measured(a)["to"], 10 * MBIT)
    b.readdress(b.addr, "10.0.2.77")
    wait_for(lambda: agents.known(lab, a, "10.0.2.77"), 15, "the new address to be known")
    # not at once: at most one a minute for one host; until then nothing is claimed
    wait_for(lambda: ways(a)["to"]["source"] == "-", 10, "the old result to be forgotten")


def beside(case, lab):
    """Two walkers' stream goes on beside it, byte for byte, and the session lives."""
    a, b = lab.A, lab.B
    shape(lab, b, 10 * MBIT, "16kb")
    shape(lab, a, 10 * MBIT, "16kb")
    c, s = walkers.pair(lab, a, b, rate=300_000, upgraded=False)
    agents.start_agents(lab, [a, b])
    # what the stream's library reports counts more than a train, once it is there
    w = measured(a, source="any")
    for way in ("to", "from"):
        # the stream takes a quarter of it
        got = w[way]["rate"] * 8
        case.note(f"{way}: {got / 1e6:.1f} Mbit/s, {w[way]['confidence']} %")
        case.check(got <= 12.5 * MBIT or w[way]["confidence"] < SURE, f"{way}: {got}")
    walkers.verdict(case, c, s)
    for h in (a, b):
        case.check(h.agent.stats()["sessions_lost"] == 0, f"the session of {h.name} was lost")


def cases(_args):
    def c(name, fn, limit=40, **how):
        return (f"rates: {name}", limit, with_lab(fn, hosts="AB", **how))
    return [
        c("256 kbit/s", shaped, there=256 * KBIT, back=256 * KBIT, burst="2kb", sure=True, most=16 << 10),
        c("256 kbit/s, a bucket of 32 KiB", shaped, there=256 * KBIT, back=256 * KBIT, burst="32kb", most=80 << 10),
        c("10 Mbit/s", shaped, there=10 * MBIT, back=10 * MBIT, burst="16kb", sure=True, most=250_000),
        c("10 Mbit/s, a bucket of 128 KiB", shaped, there=10 * MBIT, back=10 * MBIT, burst="128kb", most=500_000),
        c("10 Mbit/s, htb", shaped, there=10 * MBIT, back=10 * MBIT, burst="16kb", kind="htb", sure=True, most=250_000),
        c("100 Mbit/s", shaped, there=100 * MBIT, back=100 * MBIT, burst="64kb"),
        c("100 Mbit/s, htb", shaped, there=100 * MBIT, back=100 * MBIT, burst="64kb", kind="htb"),
        c("1 Gbit/s", shaped, there=1000 * MBIT, back=1000 * MBIT, burst="256kb"),
        c("10 Mbit/s there, 100 back", shaped, there=10 * MBIT, back=100 * MBIT, burst="32kb"),
        c("20 Mbit/s, 40 ms, cubic", far, delay=0.02, rate=20 * MBIT, control="cubic"),
        c("20 Mbit/s, 40 ms, bbr", far, delay=0.02, rate=20 * MBIT, control="bbr"),
        c("2 Mbit/s, 100 ms", far, delay=0.05, rate=2 * MBIT),
        c("once", once),
        c("libraries are told", told),
        c("another way", another_way),
        c("beside a stream", beside),
    ]
