"""The processes of the bench: a node is one process, a pair is a server and its client."""

import os
import select
import signal
import subprocess
import time


class BenchError(Exception):
    pass


class Node:
    """One roam-bench-node; commands go down its stdin, answers come back."""

    def __init__(self, binary, env, log, flags=()):
        self.log = log
        self.what = os.path.basename(binary)
        self.last = ""
        with open(log, "wb") as err:
            self.proc = subprocess.Popen(
                [binary, *flags], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=err, env=env)

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

    def ask(self, cmd):
        self.send(cmd)
        return self.answer()

    def fail(self, text):
        with open(self.log, errors="replace") as f:
            tail = f.read()[-500:].strip()
        raise BenchError("%s (pid %d), told \"%s\": %s%s" % (
            self.what, self.proc.pid, self.last, text,
            "; its stderr ends: " + tail if tail else ""))

    def upgraded(self):
        with open(self.log, errors="replace") as f:
            return sum(" upgraded " in line for line in f)

    def end(self):
        """Orderly if it can, by its own pid if not."""
        try:
            self.proc.stdin.close()
        except OSError:
            pass
        try:
            self.proc.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.proc.send_signal(signal.SIGKILL)
            self.proc.wait()
        self.proc.stdout.close()


class Pair:
    """A server and a client with one connection between them."""

    WARM_UNITS, WARM_US = 200, 100000

    def __init__(self, name, server_bin, client_bin, env, tmp, flags=()):
        self.name = name
        self.nodes = []
        tag = os.path.join(tmp, "%s-%d" % (name, time.monotonic_ns()))
        try:
            for role, binary in (("server", server_bin), ("client", client_bin)):
                self.nodes.append(Node(binary, env, "%s.%s" % (tag, role), flags))
            self.server, self.client = self.nodes
            port = self.server.ask("listen 127.0.0.1")[0]
            self.address = "127.0.0.1 " + port
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
        """For conn: every connection is its own, only the address is needed."""
        self.client.ask("address " + self.address)

    def slice(self, suite, size, spin, warm_us, run_us, min_units=1):
        """One slice: (units, ns)."""
        self.server.send("%s-server %d %d" % (suite, size, spin))
        self.client.send("%s %d %d %d %d %d" % (suite, size, spin, warm_us, run_us,
                                                min_units))
        units, ns = self.client.answer()
        self.server.answer()
        return int(units), int(ns)

    def warm(self, suite):
        """The library upgrades a connection after some exchanges, and not at once."""
        if suite == "conn":
            self.slice("conn", 64, 0, 0, self.WARM_US, self.WARM_UNITS)
            return
        self.slice("pingpong", 64, 0, 0, self.WARM_US, self.WARM_UNITS)
        if suite == "stream":
            self.slice("stream", 32768, 0, 0, self.WARM_US // 2)

    def fdcall(self, kind, batches, calls):
        return float(self.client.ask("fdcall %s %d %d" % (kind, batches, calls))[0])

    def upgraded(self):
        return sum(node.upgraded() for node in self.nodes)

    def end(self):
        for node in self.nodes:
            node.end()
