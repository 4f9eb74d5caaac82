"""
Copies through links of several speeds: plain sockets, re-linked ones, a zlib pipe (gzip | connection | gzip -d)
and ssh -C; and small questions and answers over a cable that takes 10 Mbit/s.
"""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sysconfig
import time

from places import Lab, agents
from farwire import Farwire
from harness import Fail, wait_for

PORT = 4001
TEXT = sysconfig.get_paths()["stdlib"]      # of Debian's libpython3-stdlib: sources


def corpus(directory, path, limit=12_000_000):
    """Each file once, in the order of their names."""
    with open(path, "wb") as out:
        for f in sorted(pathlib.Path(directory).rglob("*.py")):
            if out.tell() < limit:
                out.write(f.read_bytes())
        if out.tell() < 1_000_000:
            raise Fail(f"{directory} holds too little text")


class Copies:
    def __init__(self, build, case):
        self.build, self.case, self.top = build, case, case.dir
        self.files = {what: os.path.join(self.top, what) for what in ("text", "random")}
        corpus(TEXT, self.files["text"])
        pathlib.Path(self.files["random"]).write_bytes(os.urandom(16_000_000))

    def program(self, roam):
        return os.path.join(self.build, "tests", "net", "transfer" + ("-roam" if roam else ""))

    def given(self, data, n):
        """A shell's command that writes n bytes of it."""
        repeat = -(-n // os.path.getsize(self.files[data]))
        return f"cat {' '.join([self.files[data]] * repeat)} | head -c {n}"

    def meet(self, lab, argv_b, argv_a, roam=False):
        b = lab.spawn(lab.B, [self.program(roam), *argv_b], label="there")
        wait_for(lambda: "ready" in b.err(), 10, "the one that listens")
        a = lab.spawn(lab.A, [self.program(roam), *argv_a], label="here")
        return a, b

    # Each gives Mbit/s of the whole copy, its connect and its end included.

    def copied(self, lab, data, n, roam):
        a, b = self.meet(lab, ["sink", lab.B.addr, PORT],
                         ["source", lab.B.addr, PORT, self.files[data], n], roam)
        if a.wait(300) or b.wait(300):
            raise Fail("\n".join([*a.describe(), *b.describe()]))
        total, end = map(int, b.out().split())
        began = int(re.search(r"began (\d+)", a.err()).group(1))
        if total != n:
            raise Fail(f"{total} bytes came of {n}")
        return n * 8e3 / (end - began)

    def raw(self, lab, data, n):
        return self.copied(lab, data, n, False)

    def codec(self, lab, data, n):
        return self.copied(lab, data, n, True)

    def pipe(self, lab, data, n):
        """gzip at both ends, at its own level."""
        me = self.program(False)
        b = lab.spawn(lab.B, ["sh", "-c", f"{me} out {lab.B.addr} {PORT} | gzip -dc | wc -c"], label="there")
        wait_for(lambda: "ready" in b.err(), 10, "the one that listens")
        began = time.monotonic()
        lab.spawn(lab.A, ["sh", "-c", f"{self.given(data, n)} | gzip -c | {me} pipe {lab.B.addr} {PORT}"],
                  label="here").succeed(300)
        b.succeed(300)
        took = time.monotonic() - began
        if int(b.out()) != n:
            raise Fail(f"the pipe carried {b.out()} bytes of {n}")
        return n * 8e-6 / took

    def ssh(self, lab, data, n):
        """ssh -C to an sshd of ours, once it is logged in."""
        d = os.path.join(self.top, "ssh")
        if not os.path.isdir(d):
            os.makedirs(d, 0o700)
            for k in ("host", "me"):
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{d}/{k}"], check=True)
            shutil.copy(f"{d}/me.pub", f"{d}/authorized")
            os.makedirs("/run/sshd", exist_ok=True)
        b = lab.spawn(lab.B, [shutil.which("sshd", path="/usr/sbin:/sbin"), "-D", "-e", "-f", "/dev/null", "-p", PORT + 1,
                              "-h", f"{d}/host", "-o", f"AuthorizedKeysFile={d}/authorized", "-o", "StrictModes=no",
                              "-o", "PidFile=none", "-o", "UsePAM=no"], label="sshd")
        wait_for(lambda: "listening" in b.err(), 10, "sshd")
        how = f"-F none -i {d}/me -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -p {PORT + 1}"
        master = f"-o ControlPath={d}/m%C"
        lab.spawn(lab.A, ["sh", "-c", f"ssh -C {how} {master} -o ControlMaster=yes -o ControlPersist=300 root@{lab.B.addr} true"],
                  label="login").succeed(30)
        began = time.monotonic()
        a = lab.spawn(lab.A, ["sh", "-c", f"{self.given(data, n)} | ssh -C {how} {master} root@{lab.B.addr} wc -c"],
                      label="here")
        a.succeed(300)
        took = time.monotonic() - began
        lab.spawn(lab.A, ["sh", "-c", f"ssh {how} {master} -O exit root@{lab.B.addr}"], label="logout").wait(10)
        b.stop()
        if int(a.out()) != n:
            raise Fail(f"ssh carried {a.out()} bytes of {n}")
        return n * 8e-6 / took

    def asked(self, lab, roam, size, bulk, gap_us, count):
        """Nanoseconds of small questions over a cable that takes 10 Mbit/s; bulk: so many bytes went to and fro before."""
        for h, addr in zip((lab.A, lab.B), Farwire(lab, lab.A, lab.B, 0, 10e6).addr):
            h.link_down()           # there is no other way
            h.addr = addr
        if roam:
            agents.start_agents(lab, [lab.A, lab.B])
            time.sleep(4)           # their first contact measures the cable: for that moment a question takes 7 % longer
        a, b = self.meet(lab, ["echo", lab.B.addr, PORT],
                         ["ask", lab.B.addr, PORT, self.files["text"], bulk, size, count, gap_us], roam)
        a.succeed(120)
        b.succeed(10)
        if roam and bool(bulk) != bool(re.search("link=codec", a.err())):
            raise Fail("the codec stage " + ("never came" if bulk else "came for nothing"))
        return [int(x) for x in a.out().split()]


@contextlib.contextmanager
def hosts(case, mbit, roam):
    """Two and a router; mbit 0: not shaped."""
    with Lab(case, "AB") as lab:
        if roam:
            agents.start_agents(lab)
        if mbit:
            lab.R.shape(lab.B, mbit)
        yield lab
