"""Agents under bad treatment: killed, flooded, lied to. Connections do not notice."""
import json
import os
import random
import socket
import time

import agents
import forge
import walkers
from cases_breaks import AFTER
from cases_lab import with_lab
from harness import NOBODY, SCALE, Fail, Skip, wait_for
from lab import PORT
from walkers import pair, verdict


def started(lab, connections=3, rate=600_000, hosts=None, **how):
    agents.start_agents(lab, hosts or [lab.A, lab.B])
    return pair(lab, lab.A, lab.B, connections=connections, rate=rate, **how)


def break_and_go_on(lab, c, s, more=100_000):
    lab.A.kill_sockets()
    for w in (c, s):
        w.wait_bytes(more, AFTER, "it goes on after a break")


def unharmed(case, lab, c, s):
    """What stands at the end of every case: streams flow, breaks are mended."""
    break_and_go_on(lab, c, s)
    verdict(case, c, s)


def restarts(case, lab, seconds, breaks):
    """Both agents end and come back, about every second, hard and in good order."""
    c, s = started(lab)
    end = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < end:
        agent = (lab.A, lab.B)[rounds % 2].agent
        agent.restart(hard=rounds % 4 < 2, wait=False)
        if breaks:
            lab.A.kill_sockets()
        rounds += 1
        for w in (c, s):
            w.wait_bytes(500_000, AFTER, "it goes on")
    case.note(f"{rounds} restarts, {walkers.resumed(c, s)} resumed")
    verdict(case, c, s)
    if breaks:
        case.check(walkers.resumed(c, s) >= rounds // 2, "too few resumed")


def agent_killed(case, lab):
    """Existing connections go on; new ones are plain until it is back."""
    c, s = started(lab)
    lab.B.agent.kill()
    for w in (c, s):
        w.wait_bytes(200_000)
    plain = walkers.client(lab, lab.A, s, rate=2_000_000, seed=50)
    plain.wait_bytes(600_000)
    case.check(not plain.upgraded(), "upgraded without an agent")
    lab.B.agent.start()
    agents.wait_known(lab, lab.B, [lab.A])
    agents.wait_known(lab, lab.A, [lab.B])
    late = walkers.client(lab, lab.A, s, rate=2_000_000, seed=60)
    late.wait_upgraded()
    for w in (plain, late):
        w.finish()
        w.proc.succeed(10)
    unharmed(case, lab, c, s)


def wrong_key(case, lab):
    c, s = started(lab)
    other = agents.cluster_key(lab, "other")
    lab.C.start_agent(agent__key=other, discovery__peers=f"{lab.A.addr} {lab.B.addr}",
                      discovery__networks="10.0.0.0/8")
    wait_for(lambda: sum(a.stat("refused_forged_kx") for a in
                         (lab.A.agent, lab.B.agent, lab.C.agent)) > 0, 10,
             "a refused key exchange to be counted")
    said = "".join(h.agent.proc.err() for h in (lab.A, lab.B, lab.C))
    case.check("key" in said, "no message names the key")
    case.check(not agents.known(lab, lab.A, lab.C.addr), "it was let in")
    s2 = walkers.server(lab, lab.C, rate=2_000_000)
    c2 = walkers.client(lab, lab.A, s2, rate=2_000_000, seed=9)
    c2.wait_bytes(600_000)
    verdict(case, c2, s2)
    case.check(not c2.upgraded() and not s2.upgraded(), "upgraded across the keys")
    unharmed(case, lab, c, s)


def garbage(rng):
    n = rng.choice((0, 1, 3, 7, 8, 9, 16, 40, 98, 106, 256, 4096, 70000))
    body = rng.randbytes(n)
    start = rng.choice((b"", b"GET / HTTP/1.1\r\n\r\n", b"roam", b"roam\1",
                        b"roam\1" + bytes([rng.randrange(40)]), b"\0" * 16, b"\xff" * 16,
                        forge.encode("REQ", gid=rng.randbytes(16), epoch=rng.getrandbits(32)),
                        forge.encode("KX", host=rng.randbytes(16)),
                        forge.encode("PING", nonce=1), forge.encode("OWN", gid=b"x" * 16)))
    return (start + body)[:max(n, len(start))]


def fds(agent):
    return len(os.listdir(f"/proc/{agent.proc.pid}/fd"))


def garbage_at_port(case, lab, count=600):
    c, s = started(lab, hosts=[lab.A, lab.B])
    agent = lab.B.agent
    before, memory = fds(agent), agent.proc.memory()
    rng = random.Random(case.seed)

    def attack():
        sent = 0
        for _ in range(count):
            with socket.socket() as k:
                k.settimeout(2 * SCALE)
                try:
                    k.connect((lab.B.addr, PORT))
                    k.sendall(garbage(rng))
                    sent += 1
                    if rng.random() < 0.3:
                        k.shutdown(socket.SHUT_WR)
                        k.recv(100)
                except OSError:
                    pass
        return sent
    sent = lab.C.do(attack)
    case.note(f"{sent} times")
    case.check(sent > count // 2, f"only {sent} attacks reached the port")
    case.check(agent.proc.alive(), "the agent is gone")
    wait_for(lambda: fds(agent) <= before + 2, 8,
             f"the agent to have {before} descriptors again (it has {fds(agent)})")
    refused = sum(v for k, v in agent.stats().items() if k.startswith("refused"))
    case.check(refused > 0, "nothing was counted as refused")
    case.check(agent.proc.memory() < memory + 4_000_000,
               f"memory grew from {memory} to {agent.proc.memory()}")
    unharmed(case, lab, c, s)


def garbage_at_socket(case, lab, count=600):
    c, s = started(lab)
    agent = lab.B.agent
    before = fds(agent)
    rng = random.Random(case.seed)
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
    made = 0
    try:
        for _ in range(count):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as k:
                k.settimeout(2 * SCALE)
                try:
                    k.connect(agent.socket_path)
                    made += 1
                    if rng.random() < 0.3:
                        k.send(forge.encode("REGISTER", pid=os.getpid()))
                    for _ in range(rng.randrange(4)):
                        if rng.random() < 0.3:
                            socket.send_fds(k, [garbage(rng)[:60000] or b"x"], files)
                        else:
                            k.send(garbage(rng)[:60000])
                except OSError:
                    pass
    finally:
        for f in files:
            os.close(f)
    case.note(f"{made} connections")
    case.check(agent.proc.alive(), "the agent is gone")
    wait_for(lambda: fds(agent) <= before + 2, 8,
             f"the agent to have {before} descriptors again (it has {fds(agent)})")
    unharmed(case, lab, c, s)


def slow(case, lab, count=300):
    """Hundreds that say a byte and no more: they are put out, and hinder nobody."""
    c, s = started(lab)
    agent = lab.B.agent
    before = fds(agent)

    def knock():
        k = socket.socket()
        k.settimeout(2 * SCALE)
        try:
            k.connect((lab.B.addr, PORT))
            k.send(b"r")
        except OSError:
            pass
        return k
    held = lab.C.do(lambda: [knock() for _ in range(count)])
    try:
        break_and_go_on(lab, c, s)      # while they sit there
        wait_for(lambda: fds(agent) <= before + 2, 8,
                 f"the slow ones to be put out ({fds(agent)} descriptors, {before} before)")
        n = agent.stat("refused_slow")
        case.check(n > 0, "nobody was counted as slow")
        case.note(f"{n} counted as slow")
    finally:
        for k in held:
            k.close()
    unharmed(case, lab, c, s)


def gid_of(host, walker):
    found = agents.connections(host, walker.proc.pid)
    if not found:
        raise Fail("roamctl list shows no connection")
    for key in ("gid", "id", "GID"):
        if key in found[0]:
            return bytes.fromhex(found[0][key])
    raise Fail(f"roamctl list --json has no gid: {sorted(found[0])}")


def hostile(path, gid):
    """What somebody else's process says to an agent, and what it hears."""
    said = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.settimeout(2)
        try:
            s.connect(path)
            with open("/proc/self/stat") as f:
                start = int(f.read().rpartition(")")[2].split()[19])
            s.send(forge.encode("REGISTER", pid=os.getpid(), start=start))
            said.append(forge.decode(s.recv(1000)))
            for role in (0, forge.ACCEPTOR):
                s.send(forge.encode("OWN", gid=gid, flags=role | forge.MOVED, epoch=1000))
                s.send(forge.encode("QUERY", gid=gid, flags=role, epoch=1000, nonce=77))
                s.send(forge.encode("RELEASE", gid=gid, flags=role, epoch=1000, reason=30))
                s.send(forge.encode("NOTICE", gid=gid, flags=role | 4))
            while m := s.recv(1000):
                said.append(forge.decode(m))
        except OSError as e:
            said.append(("error", {"what": str(e)}))
    return [(x[0], {k: v for k, v in x[1].items() if not isinstance(v, bytes)})
            for x in said if x]


def as_nobody(host, fn, *args):
    """What fn returns in a process of another user, on that host."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            host.net.enter()
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(w, json.dumps(fn(*args)).encode())
        finally:
            os._exit(0)
    os.close(w)
    with open(r) as f:
        text = f.read()
    os.waitpid(pid, 0)
    if not text:
        raise Fail("the other user's process failed")
    return json.loads(text)


def stranger(case, lab):
    """Another user's process names a GID that is not its own."""
    if os.geteuid() != 0:
        raise Skip("needs root")
    with open("/proc/self/uid_map") as f:
        if f.read().split()[2] == "1":
            raise Skip("needs more than one uid in this user namespace")
    os.chmod(case.dir, 0o711)
    os.chmod(lab.roam_dir, 0o755)
    c, s = started(lab)
    gid = gid_of(lab.A, c)
    said = as_nobody(lab.A, hostile, lab.A.agent.socket_path, gid)
    case.note("answers: " + ", ".join(x[0] for x in said))
    denied = [x for x in said if x[0] in ("REFUSE", "RELEASE") and
              x[1]["reason"] == forge.REASONS["denied"]]
    case.check(denied, f"not denied: {said}")
    case.check(not any(x[0] == "LOCATION" for x in said), "it was told where the end is")
    case.check(lab.A.agent.stat("refused_uid") > 0, "refused_uid was not counted")
    unharmed(case, lab, c, s)


def full_table(case, lab):
    """No descriptors left in the agent: newcomers are refused, in words."""
    agents.start_agents(lab, [lab.A])
    lab.B.start_agent(how=dict(nofile=40), discovery__peers=lab.A.addr,
                      discovery__networks="10.0.0.0/8")
    agents.wait_known(lab, lab.A, [lab.B])
    c, s = pair(lab, lab.A, lab.B, connections=3, rate=600_000)
    agent = lab.B.agent

    def fill():
        held = []
        for _ in range(60):
            k = socket.socket()
            k.settimeout(1)
            try:
                k.connect((lab.B.addr, PORT))
            except OSError:
                k.close()
                break
            held.append(k)
        return held
    held = lab.C.do(fill)
    try:
        wait_for(lambda: "descriptor" in agent.proc.err() or
                 "Too many open files" in agent.proc.err(), 5,
                 "a message that names the descriptors")
        for w in (c, s):
            w.wait_bytes(100_000)
    finally:
        for k in held:
            k.close()
    case.check(agent.proc.alive(), "the agent is gone")
    wait_for(lambda: fds(agent) < 30, 8, "the agent to have descriptors again")
    unharmed(case, lab, c, s)


def refused_resumes(agent):
    s = agent.stats()
    return sum(v for k, v in s.items() if k in
               ("reconnects_refused", "refused_gone", "refused_unknown", "refused_garbage"))


def forged(case, lab):
    """REQ for an unknown GID, and for a known one under a wrong key."""
    c, s = started(lab)
    gid = gid_of(lab.B, s)
    before = refused_resumes(lab.B.agent)
    for i in range(10):
        forge.tell(lab.C, lab.B.addr, forge.encode(
            "REQ", gid=os.urandom(16), epoch=1, attempt=1 + i, nonce=5), seconds=5)
    wait_for(lambda: refused_resumes(lab.B.agent) >= before + 10, 5,
             "ten unknown requests to be counted")
    for flags in (0, forge.ACCEPTOR):
        for i in range(5):
            got = forge.tell(lab.C, lab.B.addr, forge.encode(
                "REQ", gid=gid, flags=flags, epoch=1, attempt=1000 + i, nonce=5,
                rx_off=1, tx_end=1 << 40), seconds=5)
            m = forge.decode(got)
            case.check(not m or m[0] not in ("OK",), f"answered {m}")
    s.proc.expect(r"forged", 5)
    for w in (c, s):
        w.wait_bytes(200_000)
    case.check(not walkers.reasons(s.proc, "broken") and
               not walkers.reasons(c.proc, "broken"), "a forged request broke a link")
    case.note(f"{refused_resumes(lab.B.agent) - before} counted by the agent")
    unharmed(case, lab, c, s)


def replayed(case, lab):
    """What was said at a resume is said again by somebody who listened: at the
    same place, and after a move (old epoch)."""
    c, s = started(lab, connections=1, hosts=[lab.A, lab.B, lab.C, lab.D])
    sniffer = forge.Sniffer(lab.R, PORT)
    try:
        for _ in range(4):
            break_and_go_on(lab, c, s)
        wait_for(lambda: sniffer.messages("REQ"), 5, "a request to be overheard")
        heard = sniffer.messages("REQ")
        n = walkers.resumed(c, s)
        for to, data, _ in heard:
            got = forge.tell(lab.D, to, data, seconds=5)
            m = forge.decode(got)
            case.check(not m or m[0] != "OK", "a replayed request was accepted")
        for w in (c, s):
            w.wait_bytes(200_000)
        case.check(walkers.resumed(c, s) <= n + 1, "replays made it resume")
        # The old incarnation asks where the new one is, and where it was.
        mover = s if heard[0][0] == lab.A.addr else c
        mover.move(lab.C)
        for w in (c, s):
            w.wait_bytes(200_000, AFTER, "it goes on after the move")
        stays = lab.A if mover is s else lab.B
        for to, data, f in heard:
            for at in {stays.addr, lab.C.addr, to}:
                m = forge.decode(forge.tell(lab.D, at, data, seconds=5))
                case.check(not m or m[0] != "OK", "an old epoch was accepted")
                if m and m[0] in ("NO", "REFUSE"):
                    case.note(next(w for w, nr in forge.REASONS.items()
                                   if nr == m[1]["reason"]))
        case.notes = sorted(set(case.notes))
        for w in (c, s):
            w.wait_bytes(200_000)
        counted = sum(refused_resumes(h.agent) for h in (lab.A, lab.B, lab.C))
        case.note(f"{len(heard)} overheard, {counted} counted as refused")
        case.check(counted > 0, "nothing was counted as refused")
    finally:
        sniffer.close()
    case.check(not c.proc.events("ended") and not s.proc.events("ended"),
               "a replay ended the connection")
    verdict(case, c, s)


def no_leak(case, lab, rounds=6, each=150):
    """Connections come and go: the agents and the directory look as before."""
    agents.start_agents(lab, [lab.A, lab.B])
    s = walkers.server(lab, lab.B, sampled=False)
    sizes = []
    for i in range(rounds):
        c = walkers.client(lab, lab.A, s, connections=each, args=["-p", 150], chunk=64,
                           seed=1 + i * each, sampled=False)
        c.proc.expect(f"^quiet {each}", 20)
        c.wait_upgraded(each // 2)
        c.finish()
        c.proc.succeed(20)
        sizes.append([(fds(h.agent), h.agent.proc.memory()) for h in (lab.A, lab.B)])
    for h in (lab.A, lab.B):
        wait_for(lambda h=h: not [x for x in agents.connections(h)
                                  if x.get("pid") == s.proc.pid], 10,
                 f"the agent of {h.name} to forget them")
    left = [n for n in os.listdir(lab.roam_dir) if n.startswith("o.")]
    case.check(not left, f"{len(left)} offers are left")
    for i, name in enumerate("AB"):
        first, last = sizes[1][i], sizes[-1][i]
        case.note(f"{name}: {first[0]} to {last[0]} descriptors, "
                  f"{first[1] // 1024} to {last[1] // 1024} KiB")
        case.check(last[0] <= first[0] + 2, f"descriptors of {name}: {sizes}")
        case.check(last[1] <= first[1] + 600_000, f"memory of {name}: {sizes}")


def clean_end(case, lab):
    """An agent that ends in good order takes its files along."""
    agents.start_agents(lab, [lab.A, lab.B])
    case.check(lab.A.agent.stop() == 0, "roamd did not end well")
    left = [n for n in os.listdir(lab.roam_dir)
            if n.split(".")[0] in "ahn" and n.split(".")[1] == str(lab.A.inode)]
    case.check(not left, f"left: {left}")


def two_agents(case, lab):
    """A second agent on a host says so and goes."""
    agents.start_agents(lab, [lab.A, lab.B])
    first = lab.A.agent.proc
    second = agents.Agent(lab, lab.A)
    second.start(wait=False, agent__port="7700")
    case.check(second.proc.wait(5) != 0, "a second agent of one host runs")
    case.check("agent" in second.proc.err() or "use" in second.proc.err(),
               f"it says {second.proc.err()!r}")
    case.check(first.alive(), "the first one is gone")
    c, s = pair(lab, lab.A, lab.B)
    verdict(case, c, s)


def cases(_args):
    def c(name, fn, limit=40, hosts="AB", **how):
        return (f"agent: {name}", limit, with_lab(fn, hosts, **how))
    return [
        c("restarted under load", restarts, seconds=8, breaks=False),
        c("restarted under load, with breaks", restarts, seconds=10, breaks=True),
        c("killed, and back", agent_killed),
        c("another cluster key", wrong_key, hosts="ABC"),
        c("garbage at the port", garbage_at_port, hosts="ABC"),
        c("garbage at the socket", garbage_at_socket),
        c("slow ones", slow, hosts="ABC"),
        c("a process of another user asks for a GID", stranger),
        c("a full descriptor table", full_table, hosts="ABC"),
        c("forged requests", forged, hosts="ABC"),
        c("replayed requests, old epochs", replayed, hosts="ABCD"),
        c("nothing leaks", no_leak, 90),
        c("a clean end", clean_end),
        c("two on one host", two_agents),
    ]
