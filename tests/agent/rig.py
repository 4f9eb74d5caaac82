"""A real roamd in each of some network namespaces, and fake processes that speak to it.

The codec is made from lib/wire.def, so that it cannot drift from it. A fake
process has the pid of this test; agents only look at SO_PEERCRED.
"""
import array
import contextlib
import ctypes
import fcntl
import hashlib
import os
import re
import secrets
import socket
import struct
import subprocess
import time
import types

from harness import Fail, Skip, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.join(HERE, "..", "..")
SIZES = {"U8": "B", "U16": "H", "U32": "I", "U64": "Q", "B16": "16s", "B32": "32s"}
ACCEPTOR, CLOSED, MOVED, GONE = 2, 4, 8, 16
LEAST, TRAIN = 1, 4
FREEZE, THAW, PARK, LIST, PEERS, STATS, NETCHANGE, HOSTS = range(1, 9)
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _defs():
    msgs, reasons = {}, {}
    with open(os.path.join(TOP, "lib", "wire.def")) as f:
        text = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)
    for name, nr, keyed, fields in re.findall(r"MSG\((\w+),\s*(\d+),\s*(\d),([^\n]*(?:\n\t[^\n]*)*)\)", text):
        names, fmt = [], "<"
        for size, field in re.findall(r"([UB]\d+)\((\w+)\)", fields):
            names.append(field)
            fmt += SIZES[size]
        msgs[name] = msgs[int(nr)] = (name, int(nr), keyed == "1", names, fmt)
    with open(os.path.join(TOP, "lib", "reason.def")) as f:
        for name, nr in re.findall(r"REASON\((\w+),\s*(\d+)", f.read()):
            reasons[name] = int(nr)
    return msgs, types.SimpleNamespace(**reasons)


MSGS, REASON = _defs()


def encode(name, mac=bytes(32), **values):
    _, nr, keyed, names, fmt = MSGS[name]
    fill = {n: bytes(struct.calcsize("<" + f)) if "s" in f else 0
            for n, f in zip(names, re.findall(r"\d*[A-Za-z]", fmt[1:]))}
    unknown = set(values) - set(names)
    assert not unknown, unknown
    body = struct.pack(fmt, *[values.get(n, fill[n]) for n in names])
    size = 8 + len(body) + (16 if keyed else 0)
    buf = b"roam" + struct.pack("<BBH", 1, nr, size) + body
    return buf + hashlib.blake2b(buf, digest_size=16, key=mac).digest() if keyed else buf


def decode(buf):
    name, _, keyed, names, fmt = MSGS[buf[5]]
    body = buf[8:len(buf) - (16 if keyed else 0)]
    m = types.SimpleNamespace(name=name, raw=buf, **dict(zip(names, struct.unpack(fmt, body))))
    return m


def addr16(text):
    a = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    return a.ljust(16, b"\0")


def memfd(data, seal=True):
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    if seal:
        fcntl.fcntl(fd, 1033, 2)        # F_ADD_SEALS, F_SEAL_SHRINK
    return fd


def starttime():
    with open("/proc/self/stat") as f:
        return int(f.read().rsplit(")", 1)[1].split()[19])


class Proc:
    """A process as its agent sees it."""

    def __init__(self, agent, register=True):
        self.agent = agent
        self.s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.s.settimeout(5)
        self.s.connect(agent.socket())
        self.fds = []
        if register:
            self.send("REGISTER", pid=os.getpid(), start=starttime())
            self.hello = self.expect("AGENT")

    def send(self, msg, fd=None, mac=bytes(32), **values):
        self.raw(encode(msg, mac, **values), fd)

    def raw(self, buf, fd=None):
        anc = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd is not None else []
        self.s.settimeout(5)
        self.s.sendmsg([buf], anc)

    def recv(self, seconds=5):
        """The next message, None: none came; EOFError: closed. m.fd is a descriptor or None."""
        self.s.settimeout(seconds)
        try:
            buf, anc, _, _ = self.s.recvmsg(512, 256)
        except (socket.timeout, BlockingIOError):
            return None
        except ConnectionError:
            raise EOFError from None
        if not buf:
            raise EOFError
        m = decode(buf)
        m.fd = None
        for level, kind, data in anc:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                m.fd = struct.unpack("i", data[:4])[0]
                self.fds.append(m.fd)
        return m

    def expect(self, name, seconds=5, **values):
        """The next message of this kind with these values; others are skipped."""
        end, seen = time.monotonic() + seconds, []
        while True:
            m = self.recv(max(0.001, end - time.monotonic()))
            if m is None:
                raise Fail(f"no {name} {values} within {seconds} s; there were {seen}")
            if m.name == name and all(getattr(m, k) == v for k, v in values.items()):
                return m
            seen.append((m.name, getattr(m, "reason", None)))

    def silent(self, name, seconds=0.3):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            m = self.recv(max(0.001, end - time.monotonic()))
            if m is not None and m.name == name:
                raise Fail(f"an unexpected {name}: {m}")

    def closed(self, seconds=5):
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                self.recv(0.1)
        except EOFError:
            return True
        return False

    def close(self):
        self.s.close()
        for fd in self.fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self.fds = []


class Agent:
    """One roamd, in its namespace."""

    def __init__(self, rig, name, ip):
        self.rig, self.name, self.ip = rig, name, ip
        self.ns = f"{rig.prefix}-{name}"
        self.dir = os.path.join(rig.case.dir, f"run-{name}")
        self.proc = None
        self.id = None
        self.host_id = hashlib.sha256(self.ns.encode()).hexdigest()[:32]     # stays; not every machine has a machine-id

    def start(self, *sets, key=None, nofile=None, uid=None, wait=True):
        os.makedirs(self.dir, mode=0o700, exist_ok=True)
        if uid is not None:
            os.chown(self.dir, uid, uid)
        argv = ["ip", "netns", "exec", self.ns, self.rig.case.config.roamd, "--foreground"]
        for s in (f"agent.directory={self.dir}", f"agent.key={key or self.rig.key}", "agent.log=debug",
                  f"agent.host-id={self.host_id}", *sets):
            argv += ["--set", s]
        if uid is not None:
            argv[4:4] = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        env = {k: v for k, v in os.environ.items() if not k.startswith("ROAM")}
        self.proc = self.rig.case.start(argv, env=env, nofile=nofile)
        if wait:
            self.proc.expect(r"is here: port")
        return self

    def restart(self, *sets, kill=False):
        self.proc.popen.kill() if kill else self.proc.stop()
        self.proc.wait(5)
        return self.start(*sets)

    def socket(self):
        found = [n for n in os.listdir(self.dir) if n.startswith("a.")]
        if not found:
            raise Fail(f"no agent socket in {self.dir}")
        return os.path.join(self.dir, found[0])

    def markers(self, kind):
        found = {}
        for n in os.listdir(self.dir):
            if n.startswith(kind + "."):
                try:
                    found[n] = os.readlink(os.path.join(self.dir, n))
                except FileNotFoundError:
                    pass        # removed between the two calls
        return found

    def knows(self, other):
        """Waits until this agent has a session with the other."""
        hexa = socket.inet_aton(other.ip).hex()
        wait_for(lambda: any(n.endswith("." + hexa) for n in self.markers("h")), 8,
                 f"the marker of {other.name} at {self.name}")

    def register(self):
        return Proc(self)

    def stats(self):
        p = Proc(self, register=False)
        p.send("COMMAND", nonce=1, op=STATS)
        m = p.expect("REPORT", nonce=1)
        text = os.pread(m.fd, 65536, 0).decode()
        p.close()
        return {k: int(v) for k, v in (line.split() for line in text.splitlines())}

    @contextlib.contextmanager
    def inside(self):
        """Sockets made here are of the agent's namespace."""
        with open("/proc/self/ns/net") as home, open(f"/var/run/netns/{self.ns}") as there:
            if _libc.setns(there.fileno(), CLONE_NEWNET):
                raise Fail("setns: " + os.strerror(ctypes.get_errno()))
            try:
                yield
            finally:
                _libc.setns(home.fileno(), CLONE_NEWNET)

    def tcp(self, ip, port=7626, seconds=3):
        with self.inside():
            s = socket.create_connection((ip, port), seconds)
        s.settimeout(seconds)
        return s

    def listen(self, ip):
        with self.inside():
            return socket.create_server((ip, 0))


class Rig:
    """Hosts a, b, c ... on one bridge: 10.77.0.1, .2, .3 ..."""

    def __init__(self, case, hosts=2):
        if os.geteuid() != 0:
            raise Skip("needs root for network namespaces")
        self.case = case
        self.prefix = f"ra-{os.getpid()}-{secrets.token_hex(2)}"
        self.key = os.path.join(case.dir, "key")
        self.write_key(self.key)
        self.agents = {}
        self.open = []
        self.made = []
        case.rig = self
        try:
            self.netns("hub")
            self.ip("hub", "link", "add", "name", "br", "type", "bridge")
            self.ip("hub", "link", "set", "dev", "br", "up")
            for i in range(hosts):
                self.host("abcdef"[i], f"10.77.0.{i + 1}")
        except subprocess.CalledProcessError as e:
            self.close()
            raise Skip("no network namespaces: " + e.stderr.strip()) from None
        except FileNotFoundError:
            raise Skip("ip is not installed") from None

    def write_key(self, path):
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
            f.write(secrets.token_hex(32) + "\n")

    def run(self, *argv):
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def ip(self, name, *argv):
        return self.run("ip", "-n", f"{self.prefix}-{name}", *argv)

    def netns(self, name):
        self.run("ip", "netns", "add", f"{self.prefix}-{name}")
        self.made.append(f"{self.prefix}-{name}")
        self.ip(name, "link", "set", "lo", "up")

    def host(self, name, ip):
        self.netns(name)
        self.run("ip", "-n", f"{self.prefix}-hub", "link", "add", f"v{name}", "type", "veth",
                 "peer", "name", "eth0", "netns", f"{self.prefix}-{name}")
        self.ip("hub", "link", "set", f"v{name}", "master", "br", "up")
        self.ip(name, "addr", "add", f"{ip}/24", "dev", "eth0")
        self.ip(name, "link", "set", "eth0", "up")
        self.agents[name] = Agent(self, name, ip)

    def cut(self, name, up=False):
        """Takes a host's cable out, or puts it back; the host itself does not notice."""
        self.ip("hub", "link", "set", f"v{name}", "up" if up else "nomaster")
        if up:
            self.ip("hub", "link", "set", f"v{name}", "master", "br")

    def pair(self):
        """Agents a and b with a session."""
        a, b = self.agents["a"], self.agents["b"]
        a.start(f"discovery.peers={b.ip}")
        b.start(f"discovery.peers={a.ip}")
        a.knows(b)
        b.knows(a)
        return a, b

    def connection(self, a, b):
        """A TCP connection from a to b: (opener's socket, acceptor's)."""
        with b.listen(b.ip) as listener:
            o = a.tcp(b.ip, listener.getsockname()[1])
            c, _ = listener.accept()
        self.open += [o, c]
        return o, c

    def close(self):
        for s in self.open:
            s.close()
        for p in self.case.procs:       # they hold the namespaces
            p.stop()
        for ns in reversed(self.made):
            subprocess.run(["ip", "netns", "del", ns], capture_output=True)


def tuple_of(o):
    (oa, op), (aa, ap) = o.getsockname()[:2], o.getpeername()[:2]
    return dict(family=4, oport=op, aport=ap, oaddr=addr16(oa), aaddr=addr16(aa))


def gid():
    return secrets.token_bytes(16)


def upgrade(rig, a, b, pa, pb):
    """Takes a new connection of a process at a and one at b through OFFER to WELCOME: (gid, key, sockets)."""
    o, c = rig.connection(a, b)
    t, nonce = tuple_of(o), secrets.randbits(63) | 1
    pa.send("OFFER", fd=o.fileno(), nonce=nonce, **t)
    link = wait_for(lambda: [v for v in b.markers("o").values() if v.endswith(f".{nonce:x}")], 3, "the offer's file")[0]
    if not link.startswith(f"{b.proc.pid}."):
        raise Fail(f"the offer names {link}, the agent is {b.proc.pid}")
    pb.send("HELLO", fd=c.fileno(), nonce=nonce, **t)
    m = pa.expect("HELLO", nonce=nonce)
    if (m.oport, m.aport, m.pid) != (t["oport"], t["aport"], 0):
        raise Fail("the HELLO that came is another one")
    g, key = gid(), secrets.token_bytes(32)
    pa.send("WELCOME", nonce=nonce, gid=g, key=key)
    m = pb.expect("WELCOME", nonce=nonce)
    if (m.gid, m.key) != (g, key):
        raise Fail("the WELCOME that came is another one")
    return g, key, o, c


def own_both(a, b, pa, pb, g):
    """Both ends are live; each process hears where the other is."""
    pa.send("OWN", gid=g, epoch=1)
    la = pa.expect("LOCATION", gid=g, nonce=0, flags=ACCEPTOR)
    pb.send("OWN", gid=g, epoch=1, flags=ACCEPTOR)
    lb = pb.expect("LOCATION", gid=g, nonce=0, flags=0)
    return la, lb
