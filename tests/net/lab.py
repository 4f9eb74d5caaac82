"""Hosts as network namespaces, joined by a router, with cables to pull.

        A ---eth0            eth0--- C          A 10.0.1.2  fd00:0:0:1::2
                 \\          /                  B 10.0.2.2  ...
                  rA- R -rC                     the router has .1 in each
                 /          \\
        B ---eth0            eth0--- D

Each namespace is kept by a process of its own (its name, for ps, is
rnPID-HOST) that the kernel kills when this program ends in whatever way; a
namespace whose processes are gone disappears with its interfaces. So nothing
has a name that outlives the run, and nothing is left in the host.
"""
import os
import re
import shutil
import socket
import struct
import subprocess

import ns
from harness import SCALE, Fail, Skip, Timeout, wait_for
from procs import Proc

PORT = 7626
NETLINK_NETFILTER = 12
CT_DELETE = (1 << 8) | 2


def wait_until(condition, timeout, what="a condition"):
    """The value of condition() as soon as it is true; looks every 3 ms."""
    return wait_for(condition, timeout, what)


class Host:
    """A network namespace. What is run in it shares files and users with us."""

    def __init__(self, lab, name, number):
        self.lab = lab
        self.name = name
        self.number = number
        self.addr = f"10.0.{number}.2"
        self.addr6 = f"fd00:0:0:{number:x}::2"
        self.gate = f"10.0.{number}.1"
        self.gate6 = f"fd00:0:0:{number:x}::1"
        self.agent = None
        self.prefix = []        # before every program: nsenter, say
        self.holder = subprocess.Popen(
            [f"rn{os.getpid()}-{name}", "infinity"], executable=shutil.which("sleep"),
            stdin=subprocess.DEVNULL, preexec_fn=self._begin)
        self.net = ns.Net(f"/proc/{self.holder.pid}/ns/net")

    @staticmethod
    def _begin():
        ns.die_with_parent()
        ns.unshare()

    @property
    def path(self):
        """What setns(2) takes to come here."""
        return self.net.path

    @property
    def inode(self):
        return self.net.inode

    # ---- running things ----

    def run(self, argv, text=None, check=True):
        """Runs a short command here; its output."""
        done = subprocess.run([str(a) for a in argv], input=text, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              preexec_fn=self.net.enter, timeout=20 * SCALE)
        if check and done.returncode:
            said = "; ".join(done.stderr.split("\n")).strip("; ") or done.returncode
            raise Fail(f"[{self.name}] {' '.join(map(str, argv))}: {said}")
        return done.stdout

    def spawn(self, argv, label=None, **how):
        """Starts a program here; the lab stops it at the end."""
        return self.lab.spawn(self, argv, label, **how)

    def do(self, fn, *args):
        """Runs a Python function here, in a thread."""
        return self.net.do(fn, *args)

    def sysctl(self, **values):
        """sysctl(net__ipv4__ip_forward=1): two underscores are a dot."""
        def write():
            for name, value in values.items():
                path = "/proc/sys/" + name.replace("__", "/")
                with open(path, "w") as f:
                    f.write(str(value))
        self.do(write)

    # ---- its own network ----

    def ip(self, *lines, check=True):
        """ip -batch: all of it in one process."""
        self.run(["ip", "-batch", "-"], text="\n".join(lines) + "\n", check=check)

    def configure(self, dev="eth0"):
        """Addresses and routes as at the beginning."""
        self.ip(f"link set {dev} up",
                f"addr replace {self.addr}/24 dev {dev}",
                f"addr replace {self.addr6}/64 dev {dev} nodad",
                f"route replace default via {self.gate}",
                f"route replace default via {self.gate6}")

    def link_down(self):
        self.ip("link set eth0 down")

    def link_up(self):
        """Taking a link down has removed its routes, and IPv6 its addresses."""
        self.configure()

    def readdress(self, old, new):
        """The address is removed and another added; both with the prefix of the net."""
        self.ip(f"addr del {old}/24 dev eth0",
                f"addr add {new}/24 dev eth0",
                f"route replace default via {self.gate}")

    def kill_sockets(self):
        """ss -K: the kernel aborts all TCP connections, as an administrator would.

        The agents' sessions, too. (Links may be IPv6 or to an agent's port, so a
        filter would only seem to name one connection.)"""
        out = self.run(["ss", "-K", "-H", "-t", "state", "established"], check=False)
        return len(out.splitlines())

    # ---- roam ----

    def start_agent(self, **settings):
        if self.agent is None:
            self.agent = self.lab.new_agent(self)
        self.agent.start(**settings)
        return self.agent

    def ctl(self, *args, check=True):
        """roamctl on this host; its output."""
        return self.lab.roamctl(self, *args, check=check)

    def close(self):
        self.net.close()
        if self.holder.poll() is None:
            self.holder.kill()
        self.holder.wait()


class Router(Host):
    """Forwards; everything that can go wrong between two hosts goes wrong here."""

    def begin(self):
        self.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1,
                    net__ipv6__conf__default__keep_addr_on_down=1,
                    net__ipv6__conf__all__keep_addr_on_down=1)
        self.run(["nft", "-f", "-"], text="""
            table inet lab {
                counter agents { }
                chain watch {
                    type filter hook forward priority -10;
                    tcp dport %d counter name agents
                }
                chain state { type filter hook forward priority -5; }
                chain forward { type filter hook forward priority 0; }
            }""" % PORT)

    def cable(self, host):
        """A cable to a host; both ends configured."""
        dev = f"r{host.name}"
        self.ip(f"link add {dev} type veth peer name eth0 netns {host.holder.pid}",
                f"link set {dev} up",
                f"addr add {host.gate}/24 dev {dev}",
                f"addr add {host.gate6}/64 dev {dev} nodad")
        host.configure()

    def pull(self, host):
        """The cable's end at the router: the host keeps addresses and routes."""
        self.ip(f"link set r{host.name} down")

    def plug(self, host):
        self.ip(f"link set r{host.name} up",
                f"addr replace {host.gate}/24 dev r{host.name}",
                f"addr replace {host.gate6}/64 dev r{host.name} nodad")

    def shape(self, host, mbit):
        """Both ways of a host's cable carry so much, and queue 50 ms of it."""
        burst = max(16_000, int(mbit * 1e6 / 8 / 250))
        for where, dev in ((self, f"r{host.name}"), (host, "eth0")):
            # Not "replace": a queued packet larger than the new burst would never leave.
            where.run(["tc", "qdisc", "del", "dev", dev, "root"], check=False)
            where.run(["tc", "qdisc", "add", "dev", dev, "root", "tbf", "rate",
                       f"{int(mbit * 1000)}kbit", "burst", str(burst), "latency", "50ms"])

    def reboot(self, hosts, while_down=lambda: None):
        """Its cables and its memory of connections vanish, and come back."""
        self.ip(*[f"link del r{h.name}" for h in hosts])
        self.forget()
        while_down()
        for h in hosts:
            self.cable(h)

    # ---- rules ----

    def rules(self, *rules, chain="forward"):
        """These rules and no others, from one moment to the next."""
        lines = [f"flush chain inet lab {chain}"]
        lines += [f"add rule inet lab {chain} {r}" for r in rules]
        self.run(["nft", "-f", "-"], text="\n".join(lines) + "\n")

    @staticmethod
    def between(a, b=None):
        """What comes from a and goes to b (None: anywhere)."""
        return f'iifname "r{a.name}"' + (f' oifname "r{b.name}"' if b else "")

    @staticmethod
    def toward(a):
        return f'oifname "r{a.name}"'

    def drop(self, a, b, both=True):
        """Silence from a to b, and from b to a."""
        self.rules(*[f"{self.between(x, y)} drop"
                     for x, y in [(a, b), (b, a)][:2 if both else 1]])

    def reset(self, a, b):
        """Every segment is answered by a reset, also that of a new connection."""
        self.rules(*[f"{self.between(x, y)} meta l4proto tcp reject with tcp reset"
                     for x, y in [(a, b), (b, a)]])

    def open(self):
        self.rules()

    def stateful(self, only_known=True):
        """A firewall with a memory: segments of unknown connections are dropped."""
        self.sysctl(net__netfilter__nf_conntrack_tcp_loose=0)
        self.rules(*(["meta l4proto tcp ct state invalid drop",
                      "ct state new tcp flags & (fin | syn | rst | ack) != syn drop"]
                     if only_known else []), chain="state")

    def masquerade(self, host):
        """Others see this host under the router's address."""
        self.run(["nft", "-f", "-"], text="""
            table inet nat {
                chain out {
                    type nat hook postrouting priority 100;
                    iifname "r%s" masquerade
                }
            }""" % host.name)

    def forget(self):
        """The state of all connections is forgotten (conntrack -F)."""
        def flush():
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as s:
                # REQUEST | ACK, no tuple: all of them
                s.send(struct.pack("=IHHII", 20, CT_DELETE, 5, 1, 0) + bytes(4))
                answer = s.recv(4096)
                return struct.unpack_from("=i", answer, 16)[0]
        error = self.do(flush)
        if error:
            raise Skip(f"conntrack cannot be flushed: {os.strerror(-error)}")

    def agent_packets(self):
        """Packets to the agents' port that came by."""
        out = self.run(["nft", "list", "counter", "inet", "lab", "agents"])
        return int(re.search(r"packets (\d+)", out)[1])


class Lab:
    """A context: hosts and a router; at its end nothing of it is left.

    case: a harness.Case; its directory and its environment are used, and the
    programs started here are shown when it fails."""

    def __init__(self, case, hosts="ABCD"):
        self.case = case
        self.dir = case.dir
        self.roam_dir = case.roam_dir
        self.hosts = {}
        self.router = None
        self.procs = []
        self.closing = []
        self.names = hosts

    def __enter__(self):
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc):
        self.close()

    def __getattr__(self, name):
        """lab.A is a host, lab.R the router."""
        try:
            return self.__dict__["hosts"][name]
        except KeyError:
            raise AttributeError(name) from None

    def _begin(self):
        need_tools()
        self.router = Router(self, "R", 0)
        self.hosts["R"] = self.router
        for i, name in enumerate(self.names, 1):
            self.hosts[name] = Host(self, name, i)
        for h in self.hosts.values():
            # IPv6 at once: no search for duplicates, no wait for advertisements
            h.sysctl(net__ipv6__conf__all__accept_dad=0,
                     net__ipv6__conf__default__accept_dad=0,
                     net__ipv6__conf__default__dad_transmits=0,
                     net__ipv6__conf__default__router_solicitations=0)
            h.ip("link set lo up")
        self.router.begin()
        for h in self.list():
            self.router.cable(h)

    def list(self):
        return [h for n, h in self.hosts.items() if n != "R"]

    def join(self, a, b, net=9):
        """A second cable, directly between two hosts; their addresses on it."""
        dev = f"x{b.name}", f"x{a.name}"
        a.ip(f"link add {dev[0]} type veth peer name {dev[1]} netns {b.holder.pid}")
        found = []
        for i, (h, d) in enumerate(((a, dev[0]), (b, dev[1])), 1):
            found.append(f"10.0.{net}.{i}")
            h.ip(f"link set {d} up", f"addr add {found[-1]}/24 dev {d}")
        return found

    def spawn(self, host, argv, label=None, env=None, **how):
        label = f"{len(self.procs)}-{label or os.path.basename(str(argv[0]))}"
        argv = [*host.prefix, *argv]
        p = Proc(argv, self.dir, label, env or self.case.environ(), host=host, **how)
        self.procs.append(p)
        self.case.procs.append(p)
        return p

    # What agents.py needs; kept there, so that a lab is of use without roam.
    def new_agent(self, host):
        import agents
        return agents.Agent(self, host)

    def roamctl(self, host, *args, check=True):
        import agents
        return agents.roamctl(self, host, *args, check=check)

    def write_timeline(self):
        """All that was logged, by all, in the order of time."""
        lines = sorted((t, p.label, text) for p in self.procs for t, text in p.lines)
        with open(os.path.join(self.dir, "timeline"), "w") as f:
            for t, label, text in lines:
                f.write(f"{(t - lines[0][0]) / 1e9:10.4f} {label:12} {text}\n")

    def close(self):
        for fn in reversed(self.closing):
            fn()
        for p in self.procs:
            p.remember()
        for p in reversed(self.procs):
            if p.alive():
                p.kill()
        if getattr(self.case.config, "keep", False):
            self.write_timeline()
        for h in list(self.hosts.values()):
            h.close()
        self.hosts.clear()


_lacking = None


def lacking():
    """Why there cannot be a lab here; "" when there can. Asked once."""
    global _lacking
    if _lacking is None:
        tools = [t for t in ("ip", "nft", "ss", "sleep") if not shutil.which(t)]
        if tools:
            _lacking = "not installed: " + ", ".join(tools)
        else:
            done = subprocess.run(
                ["unshare", "-n", "--", "nft", "add", "table", "inet", "probe"],
                capture_output=True, text=True)
            _lacking = "" if done.returncode == 0 else \
                f"network namespaces or nft: {done.stderr.strip()}"
    return _lacking


def need_tools():
    if lacking():
        raise Skip(lacking())


__all__ = ["Lab", "Host", "Router", "Fail", "Skip", "Timeout", "wait_until", "PORT"]
