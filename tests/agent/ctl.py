#!/usr/bin/env python3
"""ctl.py ROAMCTL: roamctl against an agent that is played here, an honest one and hostile ones."""
import array
import contextlib
import fcntl
import json
import os
import pathlib
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "meta"))

import tap  # noqa: E402

F_ADD_SEALS, F_SEAL_SHRINK = 1033, 2
FREEZE, THAW, PARK, LIST, PEERS, STATS, HOSTS = 1, 2, 3, 4, 5, 6, 8
RECORD = struct.Struct("=IIi5B3xIIIHH16s16s16s4x9QBxHI16s16s")
GID = bytes.fromhex("5e90d2e0aabbccddeeff001122334455")
GID2 = bytes.fromhex("5e90ffffaabbccddeeff001122334455")
PEER_TEXT = ("0123456789abcdef0123456789abcdef 10.0.0.2 7626 up 350\n"
             "fedcba9876543210fedcba9876543210 fd00::1 7000 dialling 0 connection refused by peer\n"
             "- 10.0.0.3 7626 dialling 0\n")
HOST_TEXT = ("0123456789abcdef0123456789abcdef 10.0.0.2 350 to 1194000 measured 75 12000 train\n"
             "0123456789abcdef0123456789abcdef 10.0.0.2 350 from 250000000 least 15 900 connections\n"
             "fedcba9876543210fedcba9876543210 fd00::1 0 to 0 - 0 0 -\n")
roamctl = None


def v4(text):
    return socket.inet_aton(text) + bytes(12)


def record(**k):
    f = dict(size=RECORD.size, pid=os.getpid(), fd=7, link=1, state=0, role=0, remote=1, family=4,
             reason=0, epoch=1, peer_epoch=2, self_port=4000, peer_port=80, gid=GID,
             self=v4("10.0.0.1"), peer=v4("10.0.0.2"), tx=1000000, rx=2000, in_flight=4096, unread=5,
             handovers=3, resent=77, stall_ns=5000000, stall_max_ns=3000000, age_ns=9 * 10**9,
             agent_family=4, agent_port=7626, pad2=0, agent_addr=v4("10.0.0.2"), agent_host=bytes(16))
    f.update(k)
    return RECORD.pack(*f.values())


def memfd(data, seals=F_SEAL_SHRINK):
    fd = os.memfd_create("answer", os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    if seals:
        fcntl.fcntl(fd, F_ADD_SEALS, seals)
    return fd


def message(kind, body):
    return b"roam" + struct.pack("<BBH", 1, kind, 8 + len(body)) + body


def report(nonce, reason=0, count=0, pid=0):
    return message(20, struct.pack("<QIIQ", nonce, pid, reason, count))


class Agent:
    """answer(op, pid, nonce): a list of (packet, [descriptors]), or None to hang up."""

    def __init__(self, answer):
        self.answer = answer
        self.dir = tempfile.mkdtemp(prefix="roam-ctl.")
        self.asked = []
        netns = os.stat("/proc/self/ns/net").st_ino
        self.path = f"{self.dir}/a.{netns}"
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.bind(self.path)
        self.sock.listen(8)
        self.end_r, self.end_w = os.pipe()
        self.thread = threading.Thread(target=self.serve)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        os.write(self.end_w, b"x")
        self.thread.join()
        self.sock.close()
        os.close(self.end_r)
        os.close(self.end_w)
        shutil.rmtree(self.dir)

    def serve(self):
        while True:
            ready = select.select([self.sock, self.end_r], [], [])[0]
            if self.end_r in ready:
                return
            with self.sock.accept()[0] as c, contextlib.suppress(OSError):
                self.one(c)

    def one(self, c):
        raw = c.recv(512)
        if raw[:4] != b"roam" or raw[4:6] != b"\x01\x13" or len(raw) != 21:
            self.asked.append(raw)
            return
        nonce, op, pid = struct.unpack("<QBI", raw[8:])
        self.asked.append((op, pid))
        packets = self.answer(op, pid, nonce)
        if packets is None:
            return
        for packet, fds in packets:
            c.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                      if fds else [])
            for fd in set(fds):
                os.close(fd)
        c.settimeout(5)
        c.recv(1)               # until it hangs up


def run(*args, agent=None, env=None, **more):
    e = {k: v for k, v in os.environ.items()
         if not k.startswith("ROAM") and k not in ("XDG_RUNTIME_DIR", "NO_COLOR")}
    e.update(env or {})
    if agent:
        args = ("--dir", agent.dir, *args)
    return subprocess.run([roamctl, *map(str, args)], env=e, stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30, **more)


def honest(*records, text=PEER_TEXT, reason=0, count=None):
    def answer(op, _pid, nonce):
        if op == LIST:
            n = len(records) if count is None else count
            return [(report(nonce, reason, n), [memfd(b"".join(records))])]
        if op in (PEERS, STATS, HOSTS):
            return [(report(nonce, reason, 0), [memfd(text.encode())])]
        return [(report(nonce, reason, 3), [])]
    return answer


def want(done, rc, *words, err=()):
    """Complaints unless the status and the words are there, and what is not ASCII text is not."""
    bad = []
    if done.returncode != rc:
        bad.append(f"exit status {done.returncode}, not {rc}; stderr: {done.stderr.strip()!r}")
    bad += [f"no {w!r} in {done.stdout!r}" for w in words if w not in done.stdout]
    bad += [f"no {w!r} in stderr {done.stderr!r}" for w in err if w not in done.stderr]
    if re.search(r"[^\n -~]", done.stdout + done.stderr):
        bad.append(f"control characters: {done.stdout!r} {done.stderr!r}")
    return bad


def t_list():
    plain = record(link=0, reason=3, gid=bytes(16), fd=9, family=6, self=bytes(15) + b"\1",
                   peer=bytes(15) + b"\2")
    with Agent(honest(record(), plain)) as a:
        done = run("list", agent=a)
        bad = want(done, 0, "GID", "5e90d2e0 ", "10.0.0.1:4000", "10.0.0.2:80", "tcp", "up", "977K",
                   "4.0K", "5.0ms, 3.0ms", "[::1]:4000", "plain", "remote")
        if "another host" in done.stdout:
            bad.append("the explanation is for -v")
        if a.asked != [(LIST, 0)]:
            bad.append(f"asked {a.asked}")
        comm = pathlib.Path("/proc/self/comm").read_text().strip()
        bad += want(done, 0, comm)
        bad += want(run("list", "-v", agent=a), 0, "no agent is there to introduce it")
        bad += want(run("list", "4711", agent=a), 0)
        if a.asked[-1] != (LIST, 4711):
            bad.append(f"asked {a.asked[-1]}")
    return bad


def t_list_json():
    with Agent(honest(record(), record(link=0, reason=4, gid=bytes(16)))) as a:
        done = run("list", "--json", agent=a)
    got = json.loads(done.stdout)
    one, two = got["connections"]
    bad = want(done, 0)
    if (one["gid"], one["sent"], one["local"], one["peer_agent"], one["state"], one["remote"]) != \
            (GID.hex(), 1000000, "10.0.0.1:4000", "10.0.0.2:7626", "up", True):
        bad.append(f"{one}")
    if two["gid"] is not None or two["reason"] != "no-peer" or got["not_shown"] != 0:
        bad.append(f"{two}")
    return bad


def t_empty():
    with Agent(honest()) as a:
        bad = want(run("list", agent=a), 0, "No connections.")
        if json.loads(run("list", "--json", agent=a).stdout)["connections"]:
            bad.append("connections out of nothing")
        bad += want(run("show", "5e", agent=a), 1, err=["no connection 5e"])
        bad += want(run("top", "--once", "--interval", "0.1", agent=a), 0, "0 connections")
    return bad


def t_hostile_records():
    odd = [dict(size=0), dict(size=RECORD.size + 8), dict(link=4), dict(link=255), dict(state=5),
           dict(role=2), dict(family=5), dict(pid=0), dict(pid=2**32 - 1), dict(fd=-2)]
    records = [record(**o) for o in odd]
    with Agent(honest(*records, record(fd=2**31 - 1, reason=2**32 - 1, tx=2**64 - 1, rx=2**64 - 1,
                                       stall_ns=2**64 - 1, stall_max_ns=2**64 - 1, epoch=2**32 - 1,
                                       handovers=2**64 - 1, pid=2**31 - 1, agent_family=99))) as a:
        done = run("list", "-v", agent=a)
        bad = want(done, 0, "16E", "18446744073709551615", err=[f"{len(odd)} records are not shown"])
        if len(done.stdout.splitlines()) != 3:      # head, the record, its reason
            bad.append(done.stdout)
        got = json.loads(run("list", "--json", agent=a).stdout)
        if got["not_shown"] != len(odd) or got["connections"][0]["sent"] != 2**64 - 1:
            bad.append(f"{got}")
        bad += want(run("show", "5e90", agent=a), 0, "unknown reason")
    return bad


def t_hostile_memory():
    bad = []
    for what, words, make in (
            ("not sealed", "sealed", lambda n: (report(n, 0, 1), [memfd(record(), 0)])),
            ("no memfd", "sealed", lambda n: (report(n, 0, 1), [os.open("/dev/null", os.O_RDONLY)])),
            ("a pipe", "sealed", lambda n: (report(n, 0, 1), list(os.pipe()))),
            ("none at all", "shorter", lambda n: (report(n, 0, 1), [])),
            ("short", "shorter", lambda n: (report(n, 0, 2), [memfd(record())])),
            ("huge count", "shorter", lambda n: (report(n, 0, 2**64 - 1), [memfd(record())])),
            ("wrapping", "shorter", lambda n: (report(n, 0, 2**64 // RECORD.size + 1),
                                               [memfd(record())]))):
        with Agent(lambda op, pid, nonce, m=make: [m(nonce)]) as a:
            bad += [f"{what}: {x}" for x in want(run("list", agent=a), 1, err=[words])]
    return bad


def t_large():
    def answer(_op, _pid, nonce):
        fd = memfd(b"", 0)
        os.ftruncate(fd, 2**40)
        fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK)
        return [(report(nonce, 0, 2**30), [fd])]
    with Agent(answer) as a:
        return want(run("list", agent=a), 1, err=["too large"])


def t_hostile_packets():
    bad = []
    for what, packets, rc, words in (
            ("hang up", lambda n: None, 1, None),
            ("garbage", lambda n: [(b"x" * 300, [])] * 20, 1, "does not fit"),
            ("another's nonce", lambda n: [(report(n ^ 1, 0, 3), [])] * 20, 1, "does not fit"),
            ("garbage first", lambda n: [(b"?", [])] * 3 + [(report(n, 0, 3), [])], 0, None),
            ("many descriptors", lambda n: [(report(n, 0, 3), [memfd(b"") for _ in range(6)])], 0, None),
            ("refused", lambda n: [(message(3, struct.pack("<QI", n, 37)), [])], 1,
             "denied: the agent refused")):
        with Agent(lambda op, pid, nonce, p=packets: p(nonce)) as a:
            done = run("freeze", os.getpid(), agent=a)
            bad += [f"{what}: {x}" for x in want(done, rc, err=[words] if words else [])]
    return bad


def t_show():
    records = [record(), record(role=1, fd=8, state=1, reason=25), record(gid=GID2, fd=9)]
    with Agent(honest(*records)) as a:
        done = run("show", GID.hex()[:6], agent=a)
        bad = want(done, 0, GID.hex(), "the end that connected", "the end that accepted",
                   "persistent, over TCP", "timeout: no new link before the deadline", "77 bytes sent",
                   "10.0.0.2:7626", "3 times", "on another host", "broken; ")
        bad += want(run("show", "5E90D2", agent=a), 0, GID.hex())
        bad += want(run("show", "5e90", agent=a), 1, err=["more than one connection"])
        bad += want(run("show", "77", agent=a), 1, err=["no connection 77"])
        got = json.loads(run("show", "--json", "5e90f", agent=a).stdout)["connections"]
        if [c["fd"] for c in got] != [9]:
            bad.append(f"{got}")
        for word in ("", "xyz", "0" * 33, "-"):
            bad += want(run("show", word, agent=a), 2, err=["GID"])
    return bad


def t_top():
    began = time.monotonic()

    def answer(_op, _pid, nonce):
        t = time.monotonic() - began
        return [(report(nonce, 0, 3),
                 [memfd(record(tx=int(1e6 * t), fd=3) + record(rx=int(9e6 * t), fd=4, gid=GID2) +
                        record(fd=5, gid=bytes(16), link=0))])]
    with Agent(answer) as a:
        done = run("top", "--once", "--interval", "0.5", agent=a, env={"TERM": "xterm"})
        exact = run("top", "--json", "--once", "--interval", "0.5", agent=a)
    rows = done.stdout.splitlines()
    bad = want(done, 0, "3 connections, 2 persistent, 0 of them not up")
    if [r[:8] for r in rows[3:5]] != ["5e90ffff", "5e90d2e0"]:
        bad.append(f"not by rate: {done.stdout}")
    if not re.search(r" 0 +(8\.\d|9)M .*4\.0K", rows[3]):
        bad.append(f"no rate of 8.6M: {rows[3]}")
    bad += want(exact, 0)
    look = json.loads(exact.stdout)
    first = look["connections"][0]
    if len(look["connections"]) != 3 or not 0.4 < look["seconds"] < 3 or first["gid"][:8] != "5e90ffff" or \
       not 8e6 < first["received_per_second"] < 10e6 or first["sent_per_second"]:
        bad.append(f"JSON: {look}")
    return bad


def t_top_live():
    """Without a terminal it prints one table after the other, and ends by a signal."""
    with Agent(honest(record())) as a:
        p = subprocess.Popen([roamctl, "--dir", a.dir, "top", "--interval", "0.1"], text=True,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        heads = 0
        while heads < 3:
            line = p.stdout.readline()
            if not line:
                break
            heads += line.startswith("roam ")
        p.terminate()
        out, err = p.communicate(timeout=10)
        bad = [] if heads == 3 and p.returncode == 0 and "\033" not in out else \
            [f"{heads} tables, status {p.returncode}, {err!r}"]
        lines = []
        p = subprocess.Popen([roamctl, "--dir", a.dir, "top", "--json", "--interval", "0.1"], text=True,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while len(lines) < 3:
            lines.append(json.loads(p.stdout.readline() or "null"))
        p.terminate()
        p.communicate(timeout=10)
        if p.returncode or not all(len(x["connections"]) == 1 for x in lines):
            bad.append(f"--json, again and again: {lines}")
        with_tty = on_terminal(a, "top", "--interval", "0.1", key=b"q")
        if b"\033[H\033[J" not in with_tty[1] or with_tty[0] != 0:
            bad.append(f"on a terminal: {with_tty}")
        dumb = on_terminal(a, "list", env={"TERM": "dumb"})
        none = on_terminal(a, "list", env={"NO_COLOR": "1"})
        colour = on_terminal(a, "list")
        if b"\033" in dumb[1] or b"\033" in none[1] or b"\033[32m" not in colour[1]:
            bad.append(f"colours: {dumb[1]} {none[1]} {colour[1]}")
    return bad


def on_terminal(agent, *args, key=None, env=None):
    master, slave = os.openpty()
    e = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    e.update({"TERM": "xterm"}, **(env or {}))
    p = subprocess.Popen([roamctl, "--dir", agent.dir, *args], stdin=slave, stdout=slave, stderr=slave,
                         env=e)
    os.close(slave)
    out = b""
    while True:
        try:
            got = os.read(master, 4096)
        except OSError:         # the other side is closed
            break
        if not got:
            break
        out += got
        if key and out.count(b"GID") > 1:
            os.write(master, key)
            key = None
    os.close(master)
    return p.wait(10), out


def t_peers():
    with Agent(honest()) as a:
        bad = want(run("peers", agent=a), 0, "01234567 ", "10.0.0.2", "350us", "fd00::1",
                   "connection refused by peer")
        got = json.loads(run("peers", "--json", agent=a).stdout)["peers"]
        if len(got) != 3 or got[0]["rtt_us"] != 350 or got[1]["error"] != "connection refused by peer" \
                or got[0]["port"] != 7626:
            bad.append(f"{got}")
    with Agent(honest(text="")) as a:
        bad += want(run("peers", agent=a), 0, "No other agents")
        if json.loads(run("peers", "--json", agent=a).stdout)["peers"]:
            bad.append("peers out of nothing")
    return bad


def t_hosts():
    with Agent(honest(text=HOST_TEXT)) as a:
        bad = want(run("hosts", agent=a), 0, "01234567 ", "10.0.0.2", "350us", "9.6 Mbit/s", "75%", "12.0s", "train",
                   ">= 2.0 Gbit/s", "15%", "900ms", "connections", "fd00::1")
        got = json.loads(run("hosts", "--json", agent=a).stdout)["hosts"]
        if len(got) != 3 or got[0] != {
                "host": "0123456789abcdef0123456789abcdef", "address": "10.0.0.2", "rtt_us": 350, "way": "to",
                "rate": 1194000, "kind": "measured", "confidence": 75, "age_ms": 12000, "source": "train"}:
            bad.append(f"{got}")
        if a.asked[0] != (HOSTS, 0):
            bad.append(f"asked {a.asked}")
    with Agent(honest(text="")) as a:
        bad += want(run("hosts", agent=a), 0, "No other hosts")
        if json.loads(run("hosts", "--json", agent=a).stdout)["hosts"]:
            bad.append("hosts out of nothing")
    big = "h a 4294967295 to 18446744073709551615 least 99999999999 9999999999999999999 train\n"
    with Agent(honest(text=big)) as a:
        bad += want(run("hosts", agent=a), 0)
        bad += want(run("hosts", "--json", agent=a), 0)
    return bad


def t_stats():
    with Agent(honest(text="offers 12\nbytes_in 18446744073709551615\nversion 0.1.0 of today\nlonely\n")) as a:
        bad = want(run("stats", agent=a), 0, "offers ", " 12\n", "0.1.0 of today")
        got = json.loads(run("stats", "--json", agent=a).stdout)
        if got != {"offers": 12, "bytes_in": "18446744073709551615", "version": "0.1.0 of today"}:
            bad.append(f"{got}")
    return bad


def t_hostile_text():
    texts = ["\033[2J\033]0;x\a 1 2 3 4\n", "a\0b 1\n", "\r\n\r\n", "\x9b31m x y z w v \x7f\n" * 3,
             "x" * 100000 + " y" * 50000, "\n" * 1000, '"\\ "\\ "\\ "\\ "\\ "\\\n', "a b c d 01 e\n",
             "a b c d " + "9" * 400 + "\n", "a b 1 to 2 \033[2J 3 4 \x07\n", "a b 1 to 9 least 9 9 x " * 9 + "\n", "\xff\xfe b c d e\n"]
    bad = []
    for text in texts:
        with Agent(honest(text=text)) as a:
            for cmd in ("peers", "hosts", "stats"):
                bad += want(run(cmd, agent=a), 0)
                done = run(cmd, "--json", agent=a)
                bad += want(done, 0)
                json.loads(done.stdout)
    return bad


def t_hostile_comm():
    """A process may call itself what it likes."""
    p = subprocess.Popen([sys.executable, "-c",
                          "import sys; open('/proc/self/comm', 'wb').write(b'\\033[2J\\n\"\\\\'); print(); "
                          "sys.stdout.flush(); sys.stdin.read()"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    p.stdout.readline()
    try:
        with Agent(honest(record(pid=p.pid))) as a:
            bad = want(run("list", agent=a), 0, '?[2J?"\\')
            got = json.loads(run("list", "--json", agent=a).stdout)["connections"][0]["command"]
            if got != '?[2J?"\\':
                bad.append(got)
            bad += want(run("show", "5e", agent=a), 0, '?[2J?"\\')
    finally:
        p.stdin.close()
        p.wait()
    return bad


def t_process():
    me = os.getpid()
    with Agent(honest()) as a:
        bad = want(run("freeze", me, agent=a), 0, f"Process {me} (", "frozen", "3 connections")
        bad += want(run("park", me, agent=a), 0, "3 connections of process", "are parked")
        bad += want(run("thaw", me, agent=a), 0, "is thawed")
        if a.asked != [(FREEZE, me), (PARK, me), (THAW, me)]:
            bad.append(f"asked {a.asked}")
        for cmd in ("freeze", "park"):
            bad += want(run(cmd, 2**31 - 1, agent=a), 1, err=["there is no process"])
    with Agent(honest(reason=24)) as a:
        for cmd in ("freeze", "park", "thaw"):
            bad += want(run(cmd, me, agent=a), 1, err=["busy: the end is in the middle"])
        for cmd in (["list"], ["peers"], ["hosts"], ["stats"], ["top", "--once"], ["show", "5"]):
            bad += want(run(*cmd, agent=a), 1, err=["busy"])
    return bad


def t_thaw_alone():
    """No agent: the file is the switch."""
    me = os.getpid()
    start = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    with tempfile.TemporaryDirectory(prefix="roam-ctl.") as d:
        files = [pathlib.Path(d, f) for f in (f"f.{me}.{start}", f"f.{me}.1", f"f.{me}0.{start}")]
        for f in files:
            f.symlink_to("4026531833")
        bad = want(run("--dir", d, "thaw", me), 0, "is thawed")
        if [f.is_symlink() for f in files] != [False, True, True]:
            bad.append("another file is gone, or this one is not")
        bad += want(run("--dir", d, "thaw", me), 1, err=["not frozen"])
        gone = pathlib.Path(d, f"f.{2**31 - 1}.5")
        gone.symlink_to("1")
        bad += want(run("--dir", d, "thaw", 2**31 - 1), 1, err=["there is no process"])
        if gone.is_symlink():
            bad.append("what a dead process left is still there")
    bad += want(run("--dir", d, "thaw", me), 3, err=["--dir"])
    return bad


def t_no_agent():
    bad = []
    with tempfile.TemporaryDirectory(prefix="roam-ctl.") as d:
        for cmd in (["list"], ["peers"], ["hosts"], ["stats"], ["top", "--once"], ["show", "5"], ["freeze", 1], ["park", 1]):
            bad += want(run("--dir", d, *cmd), 3, err=[d, "start one with"])
        netns = os.stat("/proc/self/ns/net").st_ino
        path = f"{d}/a.{netns}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.bind(path)        # nobody listens
            bad += want(run("--dir", d, "list"), 3, err=["start one with"])
        os.unlink(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.bind(path)
            s.listen(1)
            bad += want(run("--dir", d, "list"), 3, err=["no agent's socket"])
    return bad


def t_where():
    """ROAM_DIR, --dir over it, the user's directory."""
    with Agent(honest()) as a:
        bad = want(run("list", env={"ROAM_DIR": a.dir}), 0)
        bad += want(run("--dir", a.dir, "list", env={"ROAM_DIR": "/nonexistent"}), 0)
        bad += want(run("list", env={"ROAM_DIR": "/nonexistent"}), 3, err=["/nonexistent/a."])
        bad += want(run("list", env={"ROAM_DIR": "/" + "x" * 91}), 2, err=["91 bytes"])
        bad += want(run("--dir", "/" + "x" * 200, "list"), 2, err=["91 bytes"])
        if not os.path.exists(f"/run/roam/{os.path.basename(a.path)}"):
            with tempfile.TemporaryDirectory(prefix="roam-ctl.") as run_dir:
                os.symlink(a.dir, f"{run_dir}/roam")
                bad += want(run("list", env={"XDG_RUNTIME_DIR": run_dir}), 0)
    return bad


def t_usage():
    bad = want(run("--help"), 0, "list", "thaw", "--interval", "Exit status")
    bad += want(run("--version"), 0, "roamctl 0.")
    for args in ([], ["nonsense"], ["list", "x"], ["list", "1", "2"], ["list", "0"], ["list", "-1"],
                 ["list", str(2**31)], ["freeze"], ["freeze", "abc"], ["thaw"], ["park"], ["show"], ["peers", "1"],
                 ["stats", "1"], ["hosts", "1"], ["top", "1"], ["top", "--interval", "0"], ["top", "--interval", "x"],
                 ["top", "--interval"], ["list", "--once"], ["freeze", "1", "--json"], ["--nonsense"],
                 ["peers", "-v"], ["\033[2J"]):
        bad += [f"{args}: {x}" for x in want(run(*args), 2, err=["roamctl: "])]
    return bad


def t_keygen():
    with tempfile.TemporaryDirectory(prefix="roam-ctl.") as d:
        path = pathlib.Path(d, "etc", "cluster.key")
        bad = want(run("keygen", path), 0, str(path), "every host")
        if path.stat().st_mode & 0o7777 != 0o600:
            bad.append(f"mode {path.stat().st_mode:o}")
        if not re.search(r"^[0-9a-f]{64}$", path.read_text(), re.M):
            bad.append("no key in it")
        before = path.read_text()
        bad += want(run("keygen", path), 1, err=["not overwritten"])
        if path.read_text() != before:
            bad.append("another key")
        bad += want(run("keygen", pathlib.Path(d, "a", "b", "c")), 1, err=["make this directory first"])
    return bad


def t_full():
    with Agent(honest(record())) as a, open("/dev/full", "w") as full:
        done = subprocess.run([roamctl, "--dir", a.dir, "list"], stdout=full, stderr=subprocess.PIPE, text=True)
    return [] if done.returncode == 1 and "No space" in done.stderr else [f"{done}"]


def main():
    global roamctl
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    roamctl = sys.argv[1]
    return tap.run([
        ("list is a table", t_list),
        ("list --json", t_list_json),
        ("no connections", t_empty),
        ("records that make no sense are not shown", t_hostile_records),
        ("memory that is not what it should be", t_hostile_memory),
        ("more memory than there is", t_large),
        ("packets that are not what they should be", t_hostile_packets),
        ("show tells everything", t_show),
        ("top --once sorts by rate", t_top),
        ("top without a terminal and on one, colours", t_top_live),
        ("peers", t_peers),
        ("hosts", t_hosts),
        ("stats", t_stats),
        ("hostile text does not reach the terminal", t_hostile_text),
        ("a hostile process name does not reach the terminal", t_hostile_comm),
        ("freeze, park, thaw say what happened", t_process),
        ("thaw without an agent", t_thaw_alone),
        ("no agent: status 3 and a remedy", t_no_agent),
        ("where the agent is looked for", t_where),
        ("wrong usage: status 2", t_usage),
        ("keygen", t_keygen),
        ("a full disk is an error", t_full),
    ])


if __name__ == "__main__":
    sys.exit(main())
