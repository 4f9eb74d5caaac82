"""The network between two hosts breaks in every way; the streams go on.

Each case breaks, waits until nothing comes in any more where that is to be
expected, repairs, and waits for bytes. The moment of the repair is taken before
the command that makes it, so a stall that is reported is never too short.
"""
import time

import agents
import walkers
from cases_lab import silent, with_lab
from harness import wait_for
from walkers import pair, verdict

INSTANT_MS = 20     # what is broken by a command stands still so soon after its start
AFTER = 10          # seconds until bytes must flow again; the notes have the real ones


class Break:
    """Something that is broken, and how to repair it. `dead`: nothing passes
    meanwhile, in either direction."""

    def __init__(self, make, repair=None, dead=True):
        self.make = make
        self.repair = repair
        self.dead = dead


def kinds(lab):
    """name -> Break, for the streams between A and B."""
    a, b, r = lab.A, lab.B, lab.R
    def forget():
        r.forget()
    def new_address(h):
        h.readdress(h.addr, f"10.0.{h.number}.77")
    return {
        "the router's cable is pulled": Break(lambda: r.pull(a), lambda: r.plug(a)),
        "link down at the client": Break(a.link_down, a.link_up),
        "link down at the server": Break(b.link_down, b.link_up),
        "another address at the client": Break(lambda: new_address(a), dead=False),
        "another address at the server": Break(lambda: new_address(b), dead=False),
        "other addresses at both": Break(lambda: (new_address(a), new_address(b)),
                                         dead=False),
        "an address goes, another comes later": Break(
            # also that of IPv6, or the streams go on over it at once
            lambda: a.ip(f"addr del {a.addr}/24 dev eth0", f"addr del {a.addr6}/64 dev eth0"),
            lambda: a.ip(f"addr add 10.0.{a.number}.78/24 dev eth0",
                         f"route replace default via {a.gate}")),
        "silence": Break(lambda: r.drop(a, b), r.open),
        "silence from client to server": Break(lambda: r.drop(a, b, both=False), r.open,
                                               dead=False),
        "silence from server to client": Break(lambda: r.drop(b, a, both=False), r.open,
                                               dead=False),
        "resets": Break(lambda: r.reset(a, b), r.open),
        "ss -K at the client": Break(lambda: a.kill_sockets(), dead=False),
        "ss -K at the server": Break(lambda: b.kill_sockets(), dead=False),
        "a firewall forgets": Break(forget, dead=False),
        "the router reboots": Break(
            lambda: (r.ip("link del rA", "link del rB"), r.forget()),
            lambda: (r.cable(a), r.cable(b))),
    }


def prepared(lab, kind):
    if kind == "a firewall forgets":
        lab.R.stateful()
    agents.start_agents(lab)


def repair_and_wait(case, lab, br, walkers_, more=300_000):
    moment = time.monotonic_ns()
    if br.repair:
        br.repair()
    for w in walkers_:
        w.wait_bytes(more, AFTER, "it goes on")
    return moment


def note_stalls(case, walkers_, moments, window_ms=0):
    ms = walkers.stalls(walkers_, moments, window_ms)
    if ms:
        case.note(f"next byte after {min(ms):.0f} to {max(ms):.0f} ms")


def once(case, lab, kind, connections=2, mode="epoll", v6=False):
    prepared(lab, kind)
    c, s = pair(lab, lab.A, lab.B, connections=connections, mode=mode, v6=v6,
                rate=1_000_000)
    br = kinds(lab)[kind]
    moment = time.monotonic_ns()
    br.make()
    if br.dead:
        silent(case, c)
        silent(case, s)
    if br.repair:
        moment = time.monotonic_ns()
    repair_and_wait(case, lab, br, (c, s))
    note_stalls(case, (c, s), [moment], 0 if br.repair else INSTANT_MS)
    verdict(case, c, s)
    case.note(f"{walkers.resumed(c, s)} resumed")
    case.check(walkers.resumed(c, s) > 0 or kind.startswith("silence")
               or "link" in kind or "cable" in kind or "reboots" in kind,
               "nothing resumed")


def repeated(case, lab, kind, times=8):
    """The same again and again, the next as soon as bytes flow."""
    prepared(lab, kind)
    c, s = pair(lab, lab.A, lab.B, connections=3, rate=600_000)
    br = kinds(lab)[kind]
    moments = []
    for _ in range(times):
        br.make()
        if br.dead:
            silent(case, c)
        moments.append(time.monotonic_ns())
        if br.repair:
            br.repair()
        for w in (c, s):
            w.wait_bytes(30_000, AFTER, "it goes on")
    case.note(walkers.distribution(walkers.stalls(
        (c, s), moments, 0 if br.repair else INSTANT_MS)))
    verdict(case, c, s)


def new_break_in_repair(case, lab):
    """The next break falls into the repair of the one before."""
    prepared(lab, "")
    c, s = pair(lab, lab.A, lab.B, connections=2, rate=1_000_000)
    for i in range(30):
        lab.A.kill_sockets()
        lab.B.kill_sockets()
        if i % 3 == 0:
            c.wait_bytes(5_000, AFTER, "it goes on")
    for w in (c, s):
        w.wait_bytes(200_000, AFTER, "it goes on")
    verdict(case, c, s)
    case.note(f"{walkers.resumed(c, s)} resumed")


def long_silence(case, lab, seconds):
    prepared(lab, "")
    c, s = pair(lab, lab.A, lab.B, connections=2, rate=1_000_000)
    lab.R.drop(lab.A, lab.B)
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > seconds, seconds + 5,
             f"a silence of {seconds} s")
    case.check(c.proc.alive() and s.proc.alive(), "an end gave up during the silence")
    moment = time.monotonic_ns()
    lab.R.open()
    for w in (c, s):
        w.wait_bytes(200_000, AFTER, "it goes on")
    note_stalls(case, (c, s), [moment])
    verdict(case, c, s)


def idle_break(case, lab):
    """Nothing is under way during the break; afterwards it still works."""
    prepared(lab, "")
    s = walkers.server(lab, lab.B, sampled=False)
    c = walkers.client(lab, lab.A, s, connections=10, args=["-p", 40], chunk=64,
                       sampled=False)
    c.proc.expect(r"^quiet 10", 15)
    c.wait_upgraded(10)
    s.wait_upgraded(10)
    lab.R.pull(lab.A)
    lab.A.kill_sockets()
    lab.R.plug(lab.A)
    verdict(case, c, s)
    case.check(all(r["sent"] == 41 * 64 for r in c.results().values()),
               "not all messages went")


def closed_in_break(case, lab):
    """It is closed while the network is down: the last bytes and the end arrive."""
    prepared(lab, "")
    c, s = pair(lab, lab.A, lab.B, connections=2, rate=1_000_000)
    lab.R.drop(lab.A, lab.B)
    lab.A.kill_sockets()
    silent(case, s)
    c.finish()
    silent(case, s)
    lab.R.open()
    verdict(case, c, s)


def half_closed(case, lab, kind):
    """The client has ended its stream; the server's goes on through a break."""
    prepared(lab, kind)
    s = walkers.server(lab, lab.B, rate=1_000_000)
    c = walkers.client(lab, lab.A, s, bytes=300_000, back=3_000_000, rate=1_000_000)
    c.wait_upgraded()
    s.wait_upgraded()
    wait_for(lambda: s.received() >= 300_000, 10, "the client's end")
    br = kinds(lab)[kind]
    br.make()
    if br.dead:
        silent(case, c)
    if br.repair:
        br.repair()
    c.proc.succeed(20)
    walkers.check_results(case, c, s)
    case.check(all(r["received"] == 3_000_000 for r in c.results().values()),
               "not all bytes came")


def killed(case, lab, victim, broken, roam=True):
    """kill -9 of the peer: no waiting for something that never comes back."""
    prepared(lab, "")
    how = {} if roam else dict(roam=False, upgraded=False, server_how=dict(roam=False))
    c, s = pair(lab, lab.A, lab.B, rate=1_000_000, **how)
    c.wait_bytes(100_000)
    dead, left = (c, s) if victim == "client" else (s, c)
    if broken:
        lab.R.drop(lab.A, lab.B)
        silent(case, left)
    dead.proc.kill()
    if broken:
        case.check(left.proc.alive() and not left.results(),
                   "the other end ended before the network was back")
    began = time.monotonic()
    if broken:
        lab.R.open()
    wait_for(lambda: left.results() or not left.proc.alive(), 20,
             f"{left.proc.label} to notice")
    case.note(f"noticed after {time.monotonic() - began:.2f} s")
    r = next(iter(left.results().values()), None)
    case.check(r, "it ended without a result")
    case.check(r["error"] in ("ECONNRESET", "EPIPE", None), f"it saw {r['error']}")


def exits(case, lab, programs=30):
    """Short programs: each sends, closes, exits; everything arrives."""
    prepared(lab, "")
    s = walkers.server(lab, lab.B, n=programs, rate=400_000)
    for i in range(programs):
        c = walkers.client(lab, lab.A, s, bytes=30_000, back=30_000, seed=100 + i,
                           chunk=1000, rate=400_000)
        c.proc.succeed(10)
    s.proc.succeed(10)
    case.note(f"{s.upgraded()} upgraded")
    case.check(s.upgraded() > programs // 2, "too few were upgraded to say anything")
    r = s.results()
    case.check(len(r) == programs and not any(x["error"] for x in r.values()),
               f"{len(r)} good connections of {programs}")


def deadline(case, lab, seconds):
    """Back-off, then the deadline, then ETIMEDOUT."""
    prepared(lab, "")
    env = case.environ(ROAM_DEADLINE=str(seconds))
    c, s = pair(lab, lab.A, lab.B, rate=1_000_000, env=env, server_how=dict(env=env))
    lab.R.drop(lab.A, lab.B)
    began = time.monotonic()
    for w in (c, s):
        wait_for(lambda w=w: w.results() or not w.proc.alive(), seconds + 20,
                 f"{w.proc.label} to give up")
        took = time.monotonic() - began
        r = next(iter(w.results().values()))
        case.check(r["error"] == "ETIMEDOUT", f"{w.proc.label} saw {r['error']}")
        case.check(took > seconds - 0.5, f"{w.proc.label} gave up after {took:.1f} s")
        case.note(f"{w.proc.label} gave up after {took:.1f} s")



def cases(_args):
    def c(name, fn, limit=40, hosts="AB", **how):
        return (name, limit, with_lab(fn, hosts, **how))

    class Names:
        """Only for the names of the kinds: a lab that does nothing."""
        def __getattr__(self, _name):
            return Names()
        addr = addr6 = gate = number = name = ""
    # Who has a new address is found again through somebody who has not.
    out = [c(f"break: {k}", once, kind=k, hosts="ABC" if "both" in k else "AB")
           for k in kinds(Names())]
    out += [c(f"break: {k}, {m}", once, kind=k, mode=m, connections=1)
            for k in ("resets", "the router's cable is pulled", "another address at the client")
            for m in ("blocking", "epoll-et")]
    out += [c("break: IPv6, ss -K and a pulled cable", once, v6=True,
              kind="the router's cable is pulled")]
    out += [c(f"eight times: {k}", repeated, kind=k)
            for k in ("resets", "link down at the client", "ss -K at the client", "silence")]
    out += [
        c("breaks during the repair", new_break_in_repair),
        c("a silence of 3 s", long_silence, seconds=3),
        c("idle connections, broken meanwhile", idle_break),
        c("closed during the break", closed_in_break),
        c("half closed, then resets", half_closed, kind="resets"),
        c("half closed, then a pulled cable", half_closed, kind="the router's cable is pulled"),
    ]
    for broken in (False, True):
        for victim in ("client", "server"):
            out.append(c(f"kill -9 of the {victim}" + (" during a silence" if broken else ""),
                         killed, victim=victim, broken=broken))
    out += [c("30 short programs", exits),
            c("the deadline: ETIMEDOUT", deadline, seconds=3)]
    return out
