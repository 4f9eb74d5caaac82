"""
Where the pairs live: loopback, a cable between two network namespaces, and one
that carries 100 Mbit/s (the paper's Ethernet). Hosts, agents and shaping are those of tests/net.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP / "tests" / d) for d in ("net", "support")]

import agents                                   # noqa: E402
import harness                                  # noqa: E402
from lab import Lab, lacking                    # noqa: E402

TITLE = {"lo": "loopback", "veth": "a veth between two network namespaces",
         "veth100": "a veth shaped to 100 Mbit/s (the paper's Ethernet)"}
MBIT = {"veth100": 100}
CABLE = {"veth": 9, "veth100": 8}


class Place:
    def __init__(self, name, addr, server=None, client=None):
        self.name, self.addr = name, addr
        self.hosts = (server, client)       # None: where the harness is

    @property
    def enters(self):
        return tuple(h.net.enter if h else None for h in self.hosts)


def shape(host, dev, mbit):
    """At least 4 ms in a burst, 50 ms in the queue: as tests/net does it."""
    burst = max(16000, int(mbit * 1e6 / 8 / 250))
    host.run(["tc", "qdisc", "add", "dev", dev, "root", "tbf", "rate", "%dkbit" % (mbit * 1000),
              "burst", str(burst), "latency", "50ms"])


class Field:
    """
    A context: two hosts A and B with an agent each and a cable for each place, or,
    where that is not possible, only the loopback that is here; `why` says so then.
    """

    def __init__(self, build):
        config = harness.Config(None, 1)
        config.build = build
        self.case = harness.Case(config)
        self.lab = None
        self.places = {"lo": Place("lo", "127.0.0.1")}
        self.why = lacking() or ("" if shutil.which("tc") else "tc is not installed")

    def __enter__(self):
        if not self.why:
            try:
                self._begin()
            except (harness.Fail, harness.Skip, OSError) as e:
                self.why = str(e)
                self._end_lab()
        return self

    def _begin(self):
        self.lab = Lab(self.case, "AB")
        self.lab.__enter__()
        a, b = self.lab.A, self.lab.B
        for name, net in CABLE.items():
            at, to = self.cable(a, b, net)
            self.places[name] = Place(name, to, b, a)
            if name in MBIT:
                for host, dev in ((a, "x%d" % net), (b, "x%d" % net)):
                    shape(host, dev, MBIT[name])
        self.places["lo"] = Place("lo", "127.0.0.1", a, a)
        every = {h: [h.addr] + ["10.0.%d.%d" % (net, i) for net in CABLE.values()]
                 for i, h in enumerate((a, b), 1)}
        for h, other in ((a, b), (b, a)):
            h.start_agent(wait=False, discovery__peers=" ".join(every[other]),
                          discovery__networks="10.0.0.0/8")
        for h in (a, b):
            h.agent.wait_ready()
        for h, other in ((a, b), (b, a)):
            for addr in every[other]:
                harness.wait_for(lambda h=h, addr=addr: agents.known(self.lab, h, addr), 15,
                                 "the agents to know each other")

    @staticmethod
    def cable(a, b, net):
        """Directly from host to host; their addresses on it."""
        dev = "x%d" % net
        a.ip("link add %s type veth peer name %s netns %d" % (dev, dev, b.holder.pid))
        found = []
        for i, h in enumerate((a, b), 1):
            found.append("10.0.%d.%d" % (net, i))
            h.ip("link set %s up" % dev, "addr add %s/24 dev %s" % (found[-1], dev))
        return found

    @property
    def agent_dir(self):
        return self.case.roam_dir

    def listed(self, host, pid):
        """The kind of link that roamctl lists for this process."""
        try:
            found = json.loads(agents.roamctl(self.lab, host, "list", "--json") or "[]")
        except (harness.Fail, ValueError, subprocess.TimeoutExpired):
            return ""
        found = found.get("connections", []) if isinstance(found, dict) else found
        return next((c.get("link", "") for c in found if c.get("pid") == pid), "")

    def agent_usage(self):
        """CPU ns and switches of the agents: in thick mode they are part of the cost."""
        cpu = switches = 0
        for h in (self.lab.A, self.lab.B) if self.lab else ():
            stat = "/proc/%d" % h.agent.proc.pid
            with open(stat + "/schedstat") as f:
                cpu += int(f.read().split()[0])
            with open(stat + "/status") as f:
                switches += sum(int(line.split()[1]) for line in f if "ctxt_switches" in line)
        return cpu, switches

    def _end_lab(self):
        if self.lab:
            self.lab.close()
        self.lab = None

    def __exit__(self, *_exc):
        self._end_lab()
        self.case.close()




def private_network():
    """Into a network namespace of our own, if that is possible; else why not."""
    return harness.enter_netns() if os.path.isdir("/proc/self/ns") else "no namespaces"
