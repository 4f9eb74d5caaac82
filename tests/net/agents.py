"""roamd and roamctl on the hosts of a lab."""
import json
import os
import socket
import subprocess

from harness import SCALE, Fail, Skip, describe, wait_for

PORT = 7626


def program(lab, name):
    path = os.path.join(lab.case.config.build, "agent", name)
    if not os.access(path, os.X_OK):
        raise Skip(f"{name} is not built")
    return path


def roamctl(lab, host, *args, check=True):
    """Its output; check: and it must succeed."""
    argv = [program(lab, "roamctl"), *map(str, args)]
    done = subprocess.run(argv, env=lab.case.environ(), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          preexec_fn=host.net.enter, timeout=20 * SCALE)
    if check and done.returncode:
        raise Fail(f"[{host.name}] roamctl {' '.join(map(str, args))}: "
                   f"{describe(done.returncode)}: {done.stderr.strip()}")
    return done.stdout


def cluster_key(lab, name="cluster"):
    """The file of a key; made when it is first asked for."""
    path = os.path.join(lab.dir, name + ".key")
    if not os.path.exists(path):
        roamctl(lab, lab.router, "keygen", path)
    return path


class Agent:
    """The agent of one host; it may be started, killed and started again."""

    def __init__(self, lab, host):
        self.lab = lab
        self.host = host
        self.proc = None
        self.settings = {}
        self.first = None

    def start(self, wait=True, how=None, **settings):
        """settings: section__key="value", later ones add to earlier ones."""
        self.settings.update(settings)
        merged = {"agent__directory": self.lab.roam_dir,
                  "agent__key": self.settings.get("agent__key") or cluster_key(self.lab),
                  "agent__log": "info", **self.settings}
        argv = [program(self.lab, "roamd")]
        for name, value in merged.items():
            if value is not None:
                argv += ["--set", f"{name.replace('__', '.')}={value}"]
        self.proc = self.lab.spawn(self.host, argv, label=f"roamd-{self.host.name}",
                                   **(how or {}))
        if wait:
            self.wait_ready()
        return self

    @property
    def socket_path(self):
        return os.path.join(self.lab.roam_dir, f"a.{self.host.inode}")

    def answers(self):
        if not self.proc.alive():
            raise Fail(f"{self.proc.label} ended with "
                       f"{describe(self.proc.popen.returncode)}: "
                       f"{self.proc.err()[-300:].strip()}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            try:
                s.connect(self.socket_path)
                return True
            except OSError:
                return False

    def wait_ready(self):
        wait_for(self.answers, 5, f"the agent of {self.host.name}")

    def kill(self):
        self.proc.kill()

    def stop(self):
        """In good order; its exit status."""
        return self.proc.stop()

    def restart(self, hard=True, wait=True):
        if hard:
            self.kill()
        else:
            self.stop()
        self.start(wait=wait)

    def stats(self):
        return numbers(json.loads(self.host.ctl("stats", "--json")))

    def stat(self, name):
        s = self.stats()
        if name not in s:
            raise Fail(f"roamctl stats --json has no {name}: {sorted(s)}")
        return s[name]


def numbers(tree, prefix=""):
    """Flat: {"a": {"b": 1}} is {"a.b": 1}; a list of one object is that object."""
    if isinstance(tree, list) and len(tree) == 1:
        tree = tree[0]
    out = {}
    for name, value in tree.items() if isinstance(tree, dict) else []:
        if isinstance(value, dict):
            out.update(numbers(value, f"{prefix}{name}."))
        else:
            out[prefix + name] = value
    return out


def start_agents(lab, hosts=None, **settings):
    """An agent on each host, each knows the others; waits for the sessions."""
    hosts = hosts or lab.list()
    for h in hosts:
        others = " ".join(x.addr for x in hosts if x is not h)
        h.start_agent(wait=False, discovery__peers=others or None,
                      discovery__networks="10.0.0.0/8 fd00::/8", **settings)
    for h in hosts:
        h.agent.wait_ready()
    for h in hosts:
        wait_known(lab, h, [x for x in hosts if x is not h])


def known(lab, host, other_addr):
    """Has the agent of this host left a marker: an agent is at that address?"""
    raw = socket.inet_pton(socket.AF_INET6 if ":" in other_addr else socket.AF_INET,
                           other_addr).hex()
    return os.path.lexists(os.path.join(lab.roam_dir, f"h.{host.inode}.{raw}"))


def wait_known(lab, host, others):
    for o in others:
        wait_for(lambda o=o: known(lab, host, o.addr), 10,
                 f"the agent of {host.name} to know that of {o.name}")


def connections(host, pid=None):
    """What `roamctl list --json` says, optionally of one process."""
    found = json.loads(host.ctl("list", "--json") or "[]")
    if isinstance(found, dict):
        found = found.get("connections", [])
    return [c for c in found if pid is None or c.get("pid") == pid]
