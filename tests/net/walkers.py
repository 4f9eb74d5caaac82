"""The walker: started on hosts, moved between them, and what it reports."""
import json
import os
import re
import signal
import statistics
from collections import Counter

from harness import Fail, Skip, Timeout, wait_for

PORT = 4000


def program(lab, name, roam=True):
    path = os.path.join(lab.case.config.build, "tests", "net",
                        name + ("-roam" if roam else ""))
    if not os.access(path, os.X_OK):
        raise Skip(f"{path} is not built")
    return path


class Walker:
    """A process of one thread with verified streams both ways."""

    def __init__(self, lab, host, args, roam=True, mode="epoll", rate=None,
                 chunk=None, sampled=True, **how):
        self.lab = lab
        self.host = host
        base = os.path.join(lab.dir, f"walker-{len(lab.procs)}")
        self.target, self.samples_path = base + ".ns", base + ".samples"
        argv = [program(lab, "walker", roam), "-t", self.target, "-m", mode, *args]
        if sampled:
            argv += ["-o", self.samples_path]
        if rate:
            argv += ["-r", rate]
        if chunk:
            argv += ["-s", chunk]
        self.proc = lab.spawn(host, argv, label=f"walker-{host.name}", **how)
        self._pos = 0
        self._tail = ""
        self.samples = []           # (ns, received, sent)
        self._gaps = []             # (seed, begin ns, end ns)

    # ---- what it wrote ----

    def _read_on(self):
        try:
            with open(self.samples_path) as f:
                f.seek(self._pos)
                text = self._tail + f.read()
                self._pos = f.tell()
        except FileNotFoundError:
            return
        whole, _, self._tail = text.rpartition("\n")
        for line in whole.splitlines():
            w = line.split()
            if w[0] == "s":
                self.samples.append(tuple(map(int, w[1:])))
            else:
                self._gaps.append((w[1], int(w[2]), int(w[3])))

    def received(self):
        self._read_on()
        return self.samples[-1][1] if self.samples else 0

    def gaps(self):
        """Silences of at least 5 ms in what it received: (seed, begin, end)."""
        self._read_on()
        return self._gaps

    def results(self):
        """seed -> the JSON line of that connection; only of those that ended."""
        lines = re.findall(r'^\{"seed".*\}$', self.proc.out(), re.M)
        return {r["seed"]: r for r in map(json.loads, lines)}

    def upgraded(self):
        return len(self.proc.connections("upgraded"))

    # ---- what it is told ----

    def wait_upgraded(self, n=1, seconds=10):
        wait_for(lambda: self.upgraded() >= n or not self.proc.alive(), seconds,
                 f"{n} upgrades in {self.proc.label} (there are {self.upgraded()})")
        if self.upgraded() < n:
            raise Fail(f"{self.proc.label} ended before it was upgraded")

    def wait_bytes(self, more, seconds=10, what="bytes flow"):
        """Until that many more bytes have come in, from now."""
        goal = self.received() + more

        def look():
            if self.received() >= goal:
                return True
            if not self.proc.alive():
                raise Fail(f"{self.proc.label} ended; waiting that {what}")
            return False
        wait_for(look, seconds, f"{self.proc.label}: {what}: {more} more bytes")

    def finish(self):
        self.proc.signal(signal.SIGTERM)

    # ---- moving ----

    def freeze(self):
        """Right after a thaw it is not yet known to the new agent: asked again."""
        said = []

        def frozen():
            try:
                self.host.ctl("freeze", self.proc.pid)
                return True
            except Fail as e:
                said.append(str(e))
                if "gone" not in said[-1] and "no-peer" not in said[-1]:
                    raise
                return False
        try:
            wait_for(frozen, 5, f"{self.proc.label} to be known on {self.host.name}")
        except Timeout as e:
            raise Fail(f"{e}: {said[-1]}") from None

    def walk(self, host):
        """It enters the other host by itself; nothing else of it changes."""
        with open(self.target, "w") as f:
            f.write(host.path + "\n")
        before = len(re.findall(r"^moved ", self.proc.out(), re.M))
        os.kill(self.proc.pid, signal.SIGUSR1)

        def arrived():
            out = self.proc.out()
            if re.search(r"^stuck ", out, re.M):
                raise Fail(f"{self.proc.label} could not enter {host.name}")
            if not self.proc.alive():
                raise Fail(f"{self.proc.label} ended while it moved to {host.name}")
            return len(re.findall(r"^moved ", out, re.M)) > before
        wait_for(arrived, 5, f"{self.proc.label} to be on {host.name}")
        self.host = self.proc.host = host

    def thaw(self):
        self.host.ctl("thaw", self.proc.pid)

    def move(self, host):
        self.freeze()
        self.walk(host)
        self.thaw()


def server(lab, host, port=PORT, v6=False, at=None, n=None, **how):
    addr = at or (f"[{host.addr6}]" if v6 else host.addr)
    args = ["-l", f"{addr}:{port}"] + (["-n", n] if n else [])
    w = Walker(lab, host, args, **how)
    w.port = int(w.proc.expect(r"^listening on (\d+)")[1])
    w.at = f"{addr}:{w.port}"
    return w


def client(lab, host, to, connections=1, bytes=None, back=None, args=(), seed=1, **how):
    argv = ["-c", to if isinstance(to, str) else to.at, "-n", connections,
            "-d", seed, *args]
    if bytes is not None:
        argv += ["-b", bytes]
    if back is not None:
        argv += ["-B", back]
    return Walker(lab, host, argv, **how)


def pair(lab, a, b, connections=1, rate=2_000_000, upgraded=True, v6=False, mode="epoll",
         server_how=None, **how):
    """A server on b, a client on a, streams between them; (client, server)."""
    s = server(lab, b, v6=v6, rate=rate, mode=mode, **(server_how or {}))
    c = client(lab, a, s, connections=connections, rate=rate, mode=mode, **how)
    c.proc.expect(r"^connected \d+", 10)
    if upgraded:
        c.wait_upgraded(connections)
        s.wait_upgraded(connections)
    return c, s


def verdict(case, c, s, seconds=15):
    """Both end well, and every byte of both directions was right."""
    c.finish()
    wait_for(lambda: not c.proc.alive(), seconds, f"{c.proc.label} to end")
    check_results(case, c, s)


def check_results(case, c, s, seconds=10):
    ours = c.results()
    wait_for(lambda: len(s.results()) >= len(ours) or not s.proc.alive(), seconds,
             f"{s.proc.label} to report {len(ours)} connections")
    theirs = s.results()
    case.check(ours and set(ours) <= set(theirs),
               f"{len(ours)} connections in the client, {len(theirs)} in the server")
    for seed, mine in ours.items():
        other = theirs[seed]
        for r, who in ((mine, "client"), (other, "server")):
            case.check(not r["error"], f"connection {seed} in the {who}: "
                                       f"{r['error']} in {r['op']}")
            case.check(r["ended"], f"connection {seed} in the {who} did not end")
        for x, y in ((mine, other), (other, mine)):
            case.check((x["sent"], x["sent_digest"]) ==
                       (y["received"], y["received_digest"]),
                       f"connection {seed}: sent {x['sent']} {x['sent_digest']}, "
                       f"received {y['received']} {y['received_digest']}")
    case.check(c.proc.wait(1) == 0, f"{c.proc.label} reports a failure")
    return sum(r["sent"] + r["received"] for r in ours.values())


def resumed(*walkers):
    """How often they resumed, by the one that saw most."""
    return max(len(w.proc.events("resumed")) for w in walkers)


def stalls(walkers, moments, window_ms=0):
    """For each moment (ns) at which the network became usable: how long (ms) the
    next byte took, for each direction that stood still then.

    window_ms: for a break that needs no repair, and the moment before it was made:
    the direction that stood still then or began to within that time."""
    out = []
    for w in walkers:
        gaps = w.gaps()
        for t in moments:
            by_seed = {}
            for seed, begin, end in gaps:
                if end > t and begin <= t + window_ms * 1_000_000:
                    ms = (end - max(t, begin)) / 1e6
                    by_seed[seed] = max(ms, by_seed.get(seed, 0))
            out += by_seed.values()
    return out


def distribution(ms):
    """In words."""
    if not ms:
        return "nothing measured"
    ms = sorted(ms)
    pick = [ms[min(len(ms) - 1, int(len(ms) * q))] for q in (0.9, 0.99)]
    return (f"{len(ms)} stalls, median {statistics.median(ms):.1f} ms, "
            f"p90 {pick[0]:.1f}, p99 {pick[1]:.1f}, max {ms[-1]:.1f}")


def reasons(proc, event):
    """Counter of reason= in its log lines of that kind."""
    return Counter(m[1] for _, rest in proc.events(event)
                   if (m := re.search(r"reason=(\S+)", rest)))
