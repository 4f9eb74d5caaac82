"""The processes of the bench: a node is one process, a pair is a server and its client."""

import os
import select
import signal
import subprocess
import time


class BenchError(Exception):
    pass


class Refuse(BenchError):
    """The numbers would not mean what they say."""


class Took:
    """What one command needed: units, ns of the timed part, and of this process in all of it."""

    def __init__(self, words):
        self.units, self.ns, self.cpu, self.switches, self.now = map(int, words or [0] * 5)


class Node:
    """One program that is told things line by line; answers are "ok ..." or "error ..."."""

    def __init__(self, argv, env, log, enter=None):
        self.log = log
        self.what = os.path.basename(argv[0])
        self.last = ""
        with open(log, "wb") as err:
            self.proc = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=err, env=env, preexec_fn=enter)
        self.pid = self.proc.pid

    def send(self, cmd):
        self.last = cmd
        try:
            os.write(self.proc.stdin.fileno(), cmd.encode() + b"\n")
        except BrokenPipeError:
            self.fail("is gone")

    def answer(self, timeout=30):
        fd = self.proc.stdout.fileno()
        line = b""
        end = time.monotonic() + timeout
        while not line.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                self.fail("gave no answer for %d s" % timeout)
            part = os.read(fd, 4096)
            if not part:
                self.fail("ended")
            line += part
        words = line.decode().split()
        if words[0] != "ok":
            self.fail(line.decode().strip())
        return words[1:]

    def ask(self, cmd, timeout=30):
        self.send(cmd)
        return self.answer(timeout)

    def err(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def fail(self, why):
        raise BenchError("%s (pid %d), told \"%s\": %s; it said: %s" % (
            self.what, self.pid, self.last, why, self.err()[-400:].strip() or "nothing"))

    def lines(self, text):
        return sum(text in line for line in self.err().splitlines())

    def pss(self):
        """Bytes of user memory, shared pages by share."""
        with open("/proc/%d/smaps_rollup" % self.pid) as f:
            for line in f:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
        self.fail("has no Pss")

    def end(self):
        """Orderly if it can, by its own pid if not."""
        try:
            self.proc.stdin.close()
        except OSError:
            pass
        try:
            self.proc.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.proc.send_signal(signal.SIGKILL)
            self.proc.wait()
        self.proc.stdout.close()


class Pair:
    """
    A server and a client. binaries, envs, flags and enters are (server's, client's);
    link: what its connection is to be on, None: plain TCP, and never upgraded.
    """

    WARM_US = 20000

    def __init__(self, name, binaries, env, tmp, link=None, addr="127.0.0.1", enters=(None, None),
                 flags=((), ()), listed=None):
        self.name = name
        self.link = link
        self.listed = listed        # thick: what roamctl lists, as {pid: link}
        self.nodes = []
        tag = os.path.join(tmp, "%s-%d" % (name, time.monotonic_ns()))
        try:
            for role, binary, enter, flag in zip(("server", "client"), binaries, enters, flags):
                self.nodes.append(Node([binary, *flag], env, "%s.%s" % (tag, role), enter))
            self.server, self.client = self.nodes
            self.address = "%s %s" % (addr, self.server.ask("listen " + addr)[0])
        except BaseException:
            self.end()
            raise

    def pin(self, cpus):
        for node, cpu in zip(self.nodes, cpus):
            node.ask("pin %d" % cpu)

    def scatter(self, cpu):
        """
        Let the scheduler place both, from a state that is always the same: where it
        left a pair of processes last time it leaves them for seconds, and that
        makes two alike pairs differ by a factor of four.
        """
        self.pin((cpu, cpu))
        self.pin((-1, -1))

    def connect(self):
        self.client.ask("connect " + self.address)
        self.server.ask("accept")

    def aim(self):
        """For commands that connect by themselves: only the address is needed."""
        self.client.ask("address " + self.address)

    def both(self, server_cmd, client_cmd, timeout=60):
        """(server's, client's) of one command on each."""
        self.server.send(server_cmd)
        self.client.send(client_cmd)
        c = Took(self.client.answer(timeout))
        return Took(self.server.answer(timeout)), c

    def slice(self, suite, size, spin, warm_us, run_us, min_units=1):
        """One slice: (client's units, ns, CPU ns a unit of both, switches a unit of both)."""
        s, c = self.both("%s-server %d %d" % (suite, size, spin),
                         "%s %d %d %d %d %d" % (suite, size, spin, warm_us, run_us, min_units))
        all_units = max(1, s.units)
        return Slice(c.units, c.ns, (s.cpu + c.cpu) / all_units, (s.switches + c.switches) / all_units)

    def window(self, size, window, run_us):
        s, c = self.both("pingpong-server %d 0" % size, "window %d 0 %d %d 1" % (size, window, run_us))
        return Slice(c.units, c.ns, (s.cpu + c.cpu) / s.units, (s.switches + c.switches) / s.units)

    def fdcall(self, kind, batches, calls):
        return float(self.client.ask("fdcall %s %d %d" % (kind, batches, calls))[0])

    # ---- is it what it says? ----

    def upgraded(self):
        return sum(node.lines(" upgraded ") for node in self.nodes)

    def lacking(self):
        """Why this is not the link that was asked for; "" when it is."""
        if self.link is None:
            return "upgraded, and should not be" if self.upgraded() else ""
        if not all(node.lines(" upgraded ") for node in self.nodes):
            return "not upgraded"
        rings = [node.lines(" link=ring") for node in self.nodes]
        if self.link == "ring" and not all(rings):
            return "not on a ring"
        if self.link == "tcp" and any(rings):
            return "on a ring, and should not be"
        if self.link == "thick":
            found = self.listed(self.client) if self.listed else ""
            return "" if found == "thick" else "listed as \"%s\"" % (found or "nothing")
        return ""

    def settle(self, seconds=6):
        """Exchanges until the connection is where it should be; the library does that lazily."""
        end = time.monotonic() + seconds
        while True:
            self.slice("pingpong", 64, 0, 0, self.WARM_US, 100)
            why = self.lacking()
            if not why or self.link is None or time.monotonic() > end:
                break
        if why:
            raise Refuse("%s: %s; its client said: %s" % (self.name, why, self.client.err()[-300:].strip()))
        self.slice("stream", 32768, 0, 0, self.WARM_US)

    def end(self):
        for node in reversed(self.nodes):       # the client first: TIME_WAIT is its own
            node.end()


class Slice:
    """cpu: ns a unit; switches: a unit; both ends together. None: not known."""

    def __init__(self, units, ns, cpu=None, switches=None):
        self.units, self.ns, self.cpu, self.switches = units, ns, cpu, switches


class CorePair:
    """roam-bench-ring and its like: one process that is told, and its other half."""

    def __init__(self, name, argv, env, tmp):
        self.name = name
        self.node = Node(argv, env, os.path.join(tmp, "%s-%d" % (name, time.monotonic_ns())))

    def ask(self, line):
        units, ns = map(int, self.node.ask(line)[:2])
        return units, ns

    def pin(self, cpus):
        self.node.ask("pin %d %d" % (cpus[1], cpus[0]))

    def scatter(self, cpu):
        self.pin((cpu, cpu))
        self.pin((-1, -1))

    def settle(self):
        for _ in range(3):
            self.ask("pp 8 2000")

    def slice(self, suite, size, _spin, _warm_us, run_us, _min_units=1):
        """As Pair.slice: a stream in bytes."""
        units, ns = self.ask("%s %d %d" % ("pp" if suite == "pingpong" else "stream", size, run_us))
        return Slice(units * (size if suite == "stream" else 1), ns)

    def end(self):
        self.node.end()
