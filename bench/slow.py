#!/usr/bin/env python3
"""
A file through links of several speeds: plain sockets, re-linked ones, a zlib pipe (gzip | connection | gzip -d)
and ssh -C, in turn; and small questions and answers beside it.

Two hosts (network namespaces) with a router between them, an agent on each where roam is measured. The text is a
corpus of Debian packages: what the machine has in DIR (the sources of Python's library).
"""
import argparse
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True
TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP / "tests" / d) for d in ("net", "support", "meta")]

import agents                       # noqa: E402
import harness                      # noqa: E402
from harness import wait_for        # noqa: E402
from farwire import Farwire         # noqa: E402
from lab import Lab                 # noqa: E402

PORT = 4001
LINKS = {10: 16_000_000, 100: 120_000_000, 0: 4_000_000_000}     # Mbit/s (0: not shaped): bytes of a transfer


def corpus(directory, path, limit=12_000_000):
    """Each file once, in the order of their names."""
    with open(path, "wb") as out:
        for f in sorted(pathlib.Path(directory).rglob("*.py")):
            if out.tell() < limit:
                out.write(f.read_bytes())
        if out.tell() < 1_000_000:
            raise SystemExit(f"{directory} holds too little text; --text names another directory")


class Field:
    def __init__(self, o, case, top):
        self.o, self.case, self.top = o, case, top
        self.files = {"text": os.path.join(top, "text"), "random": os.path.join(top, "random")}
        corpus(o.text, self.files["text"])
        pathlib.Path(self.files["random"]).write_bytes(os.urandom(16_000_000))

    def program(self, roam):
        return os.path.join(self.o.build, "tests", "net", "transfer" + ("-roam" if roam else ""))

    def meet(self, lab, argv_b, argv_a, roam=False):
        b = lab.spawn(lab.B, [self.program(roam), *argv_b], label="there")
        wait_for(lambda: "ready" in b.err(), 10, "the one that listens")
        a = lab.spawn(lab.A, [self.program(roam), *argv_a], label="here")
        return a, b

    # Each gives Mbit/s of the whole transfer, its connect and its end included, and of its second half where known.

    def copied(self, lab, data, n, roam):
        a, b = self.meet(lab, ["sink", lab.B.addr, PORT, n],
                         ["source", lab.B.addr, PORT, self.files[data], n], roam)
        if a.wait(300) or b.wait(300):
            raise SystemExit("\n".join([*a.describe(), *b.describe()]))
        total, half, end = map(int, b.out().split())
        began = int(re.search(r"began (\d+)", a.err()).group(1))
        if total != n:
            raise SystemExit(f"{total} bytes came of {n}")
        return n * 8e3 / (end - began), n * 4e3 / (end - half)

    def plain(self, lab, data, n):
        return self.copied(lab, data, n, False)

    def roam(self, lab, data, n):
        return self.copied(lab, data, n, True)

    def piped(self, lab, data, n):
        """gzip at both ends, at its own level."""
        repeat = -(-n // os.path.getsize(self.files[data]))
        files = " ".join([self.files[data]] * repeat)
        me = self.program(False)
        b = lab.spawn(lab.B, ["sh", "-c", f"{me} out {lab.B.addr} {PORT} | gzip -dc | wc -c"], label="there")
        wait_for(lambda: "ready" in b.err(), 10, "the one that listens")
        began = time.monotonic()
        lab.spawn(lab.A, ["sh", "-c", f"cat {files} | head -c {n} | gzip -c | {me} pipe {lab.B.addr} {PORT}"],
                  label="here").succeed(300)
        b.succeed(300)
        took = time.monotonic() - began
        if int(b.out()) != n:
            raise SystemExit(f"the pipe carried {b.out()} bytes of {n}")
        return n * 8e-6 / took, None

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
        repeat = -(-n // os.path.getsize(self.files[data]))
        files = " ".join([self.files[data]] * repeat)
        how = f"-F none -i {d}/me -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -p {PORT + 1}"
        master = f"-o ControlPath={d}/m%C"
        lab.spawn(lab.A, ["sh", "-c", f"ssh -C {how} {master} -o ControlMaster=yes -o ControlPersist=300 root@{lab.B.addr} true"],
                  label="login").succeed(30)
        began = time.monotonic()
        a = lab.spawn(lab.A, ["sh", "-c", f"cat {files} | head -c {n} | ssh -C {how} {master} root@{lab.B.addr} wc -c"],
                      label="here")
        a.succeed(300)
        took = time.monotonic() - began
        lab.spawn(lab.A, ["sh", "-c", f"ssh {how} {master} -O exit root@{lab.B.addr}"], label="logout").wait(10)
        b.stop()
        if int(a.out()) != n:
            raise SystemExit(f"ssh carried {a.out()} bytes of {n}")
        return n * 8e-6 / took, None

    def asked(self, lab, roam, size, bulk, gap_us, count):
        """Microseconds of small questions over a cable that takes 10 Mbit/s; bulk: so many bytes went to and fro before."""
        for h, addr in zip((lab.A, lab.B), Farwire(lab, lab.A, lab.B, 0, 10e6).addr):
            h.link_down()           # there is no other way
            h.addr = addr
        if roam:
            agents.start_agents(lab, [lab.A, lab.B])
        a, b = self.meet(lab, ["echo", lab.B.addr, PORT],
                         ["ask", lab.B.addr, PORT, self.files["text"], bulk, size, count, gap_us], roam)
        a.succeed(120)
        b.succeed(10)
        coded = bool(re.search("link=codec", a.err()))
        if roam and bulk and not coded:
            self.case.note("the codec stage never came")
        return [int(x) / 1e3 for x in a.out().split()]


@contextlib.contextmanager
def lab_for(field, mbit, roam):
    with Lab(field.case, "AB") as lab:
        if roam:
            agents.start_agents(lab)
        if mbit:
            lab.R.shape(lab.B, mbit)
        yield lab


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--build", default=str(TOP / "build"))
    p.add_argument("--text", default="/usr/lib/python3.11", metavar="DIR")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--only", default="plain,roam,piped,ssh", help="of them")
    p.add_argument("--links", default="10,100,0", help="Mbit/s; 0 is not shaped")
    p.add_argument("--data", default="text,random")
    p.add_argument("--no-ask", action="store_true")
    p.add_argument("--json", metavar="FILE")
    o = p.parse_args()
    reason = harness.enter_netns()
    if reason:
        print(f"no hosts can be made here: {reason}")
        return 77
    config = harness.Config(None, 1)
    config.build = os.path.abspath(o.build)
    case = harness.Case(config)
    field = Field(o, case, case.dir)
    out = {}
    who = o.only.split(",")
    links = [int(x) for x in o.links.split(",") if x]
    for r in range(o.rounds):
        for mbit in links:
            for data in o.data.split(","):
                for w in random.sample(who, len(who)):
                    if mbit == 0 and w in ("piped", "ssh"):
                        continue
                    with lab_for(field, mbit, w == "roam") as lab:
                        whole, half = getattr(field, w)(lab, data, LINKS[mbit])
                    out.setdefault(f"{mbit} {data} {w}", []).append(whole)
                    if half:
                        out.setdefault(f"{mbit} {data} {w} half", []).append(half)
                    print(f"# {mbit} {data} {w} {whole:.1f} {half or 0:.1f}", flush=True)
        if not o.no_ask:
            for size, bulk, gap in ((64, 0, 1000), (64, 4_000_000, 1000), (1000, 0, 1000), (1000, 4_000_000, 1000)):
                for w in random.sample(("plain", "roam"), 2):
                    with lab_for(field, 0, False) as lab:
                        got = field.asked(lab, w == "roam", size, bulk, gap, 1500)
                    m = statistics.median(got)
                    out.setdefault(f"ask {size} {bulk} {w}", []).append(m)
                    print(f"# ask {size} {bulk} {w} {m:.1f} us, worst {max(got):.0f}", flush=True)
    case.close()
    for name, v in out.items():
        base = re.sub(r"(roam|piped|ssh)(?=$| half)", "plain", name)
        ratio = statistics.median(v) / statistics.median(out[base]) if base in out else float("nan")
        print(f"{name:28} {statistics.median(v):10.1f}  ({min(v):.1f} .. {max(v):.1f})  {ratio:6.3f}")
    if o.json:
        pathlib.Path(o.json).write_text(json.dumps(out, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
