#!/usr/bin/env python3
"""The Debian packages: built, installed in a clean root, used there, and removed. TAP.

Needs root, dpkg-buildpackage with the build dependencies, debootstrap, and the archive that this host's
apt uses; skips with the reason where one is not there.
"""
import argparse
import glob
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(TOP / "tests/meta"))

import tap  # noqa: E402

INSIDE = "ROAM_PACKAGE_INSIDE"


class Fail(Exception):
    pass


def run(*cmd, cwd=None, limit=600, env=None, check=True):
    done = subprocess.run([str(c) for c in cmd], cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=limit)
    if check and done.returncode:
        raise Fail(f"{' '.join(map(str, cmd))[:300]}: exit status {done.returncode}\n" +
                   "\n".join(done.stdout.splitlines()[-15:]))
    return done.stdout


def archive():
    """(URI, suite) of the Debian archive that apt uses here, or None."""
    for path in glob.glob("/etc/apt/sources.list.d/*.sources"):
        for part in pathlib.Path(path).read_text().split("\n\n"):
            f = dict(re.findall(r"^(\w[\w-]*):\s*(.+)$", part, re.M))
            if "debian" in f.get("URIs", "") and "main" in f.get("Components", "") and "security" not in f["URIs"]:
                return f["URIs"].split()[0], f["Suites"].split()[0]
    for path in ["/etc/apt/sources.list", *glob.glob("/etc/apt/sources.list.d/*.list")]:
        try:
            text = pathlib.Path(path).read_text()
        except OSError:
            continue
        m = re.search(r"^deb\s+(?:\[[^]]*\]\s+)?(\S*debian\S*)\s+([\w-]+)\s+main", text, re.M)
        if m:
            return m[1], m[2]
    return None


def lacking():
    if os.geteuid() != 0:
        return "needs root for debootstrap"
    for tool in ("dpkg-buildpackage", "dh", "debootstrap", "unshare", "chroot"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    done = subprocess.run(["dpkg-checkbuilddeps", str(TOP / "debian/control")], capture_output=True, text=True)
    if done.returncode:
        return "; ".join(done.stderr.split("\n")).strip("; ")
    return None if archive() else "no Debian archive in the sources of apt"


class Root:
    """A clean root, with what is copied into it."""

    def __init__(self, tmp):
        self.path = tmp / "root"
        uri, suite = archive()
        run("debootstrap", "--variant=minbase", suite, self.path, uri)
        shutil.copy("/etc/resolv.conf", self.path / "etc/resolv.conf")
        for kind in ("proc", "sys"):
            run("mount", "--rbind", f"/{kind}", self.path / kind)
        run("mount", "--bind", "/dev", self.path / "dev")

    def sh(self, script, limit=300, check=True):
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root",
               "DEBIAN_FRONTEND": "noninteractive"}
        env.update({k: v for k, v in os.environ.items() if k.lower().endswith("_proxy")})
        return run("chroot", self.path, "sh", "-ec", script, limit=limit, env=env, check=check)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--keep", action="store_true", help="keep the directory")
    args = p.parse_args()
    why = lacking()
    if why:
        print(f"1..0 # SKIP {why}")
        return 0
    if not os.environ.get(INSIDE):
        # What is mounted, and started, ends with this process.
        os.environ[INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "--",
                              sys.executable, *sys.argv])
    tmp = pathlib.Path(tempfile.mkdtemp(prefix="roam-p-", dir="/tmp"))
    at = {}

    def checked(fn):
        def check():
            try:
                return fn() or []
            except Fail as e:
                return str(e).splitlines()
            except subprocess.TimeoutExpired as e:
                return [str(e)]
        return check

    def build():
        src = tmp / "src"
        shutil.copytree(TOP, src, ignore=shutil.ignore_patterns("build*", ".git", "__pycache__"))
        run("dpkg-buildpackage", "-b", "-us", "-uc", cwd=src,
            env={k: v for k, v in os.environ.items() if not k.startswith(("ROAM", "MESON", "NINJA"))})
        at["debs"] = {re.match(r"([\w-]+)_", d.name)[1]: d for d in tmp.glob("*.deb")}
        return [f"no package {n}" for n in ("libroam-dev", "roamd") if n not in at["debs"]]

    def contents():
        want = {"libroam-dev": ["usr/include/roam.h", "libroam.a", "libroam.so", "libroam-cover.o", "roam.pc",
                                "roamConfig.cmake", "roam.rsp", "man3/roam.3.gz", "man7/roam.7.gz", "copyright"],
                "roamd": ["usr/sbin/roamd", "usr/bin/roamctl", "roamd.service", "sysusers.d/roam.conf",
                          "man1/roamctl.1.gz", "man8/roamd.8.gz", "completions/roamctl", "roamd.conf.example"]}
        bad = []
        for name, files in want.items():
            listing = run("dpkg", "-c", at["debs"][name])
            bad += [f"{name} lacks {f}" for f in files if f + "\n" not in listing]
        return bad

    def no_licence():
        """Until one has been chosen."""
        names = "".join((at["root"].path / f"usr/share/doc/{n}/copyright").read_text() for n in ("roamd", "libroam-dev"))
        return [] if names.count("No licence has been chosen") == 2 or list(TOP.glob("LICENSE*")) else \
            ["the packages claim a licence that there is not"]

    def install():
        root = at["root"] = Root(tmp)
        for name in ("libroam-dev", "roamd"):
            shutil.copy(at["debs"][name], root.path / "tmp")
        root.sh("apt-get -q update && apt-get -q -y install --no-install-recommends gcc libc6-dev make cmake pkg-config "
                "iproute2 /tmp/libroam-dev_*.deb /tmp/roamd_*.deb", limit=500)
        for f in ("consumer/echo.c", "consumer/ask.c", "consumer/make", "consumer/cmake"):
            to = root.path / "srv" / f
            to.parent.mkdir(exist_ok=True)
            (shutil.copytree if (TOP / "tests" / f).is_dir() else shutil.copy)(TOP / "tests" / f, to)

    def use(how):
        def check():
            said = at["root"].sh(f"cd /srv/consumer; rm -rf b; mkdir b; cp *.c b; {how}\n"
                                 "cd b; ROAM_LOG=info ./echo 2>&1; ./ask")
            return [] if len(re.findall(" upgraded ", said)) == 2 and "with roam" in said and "cover whole" in said \
                else said.splitlines()
        return check

    def agent():
        said = at["root"].sh("""exec unshare --net sh -ec '
            ip link set lo up
            roamctl keygen; roamd --set agent.log=info 2>/tmp/roamd.log & pid=$!
            for i in $(seq 50); do grep -q "is here" /tmp/roamd.log && break; sleep 0.1; done
            roamctl doctor /srv/consumer/b/echo || { cat /tmp/roamd.log; exit 1; }
            kill $pid; wait $pid || true; roamctl keygen && exit 1; rm /etc/roam/cluster.key'""")
        return [] if "Nothing is wrong." in said and "whole process" in said else said.splitlines()

    def unit():
        """What the unit names is there, and the user that sysusers would make is the one of the example."""
        root = at["root"].path
        text = (root / "lib/systemd/system/roamd.service").read_text()
        exe = re.search(r"^ExecStart=(\S+)", text, re.M)[1]
        users = (root / "usr/lib/sysusers.d/roam.conf").read_text()
        bad = [] if (root / exe.lstrip("/")).exists() else [f"{exe} is not there"]
        if shutil.which("systemd-analyze"):
            out = run("systemd-analyze", "verify", f"--root={root}", "roamd.service", check=False)
            bad += [line for line in out.splitlines() if re.search("Unknown|Invalid|[Pp]arse|executable", line)]
        if shutil.which("systemd-sysusers"):
            run("systemd-sysusers", f"--root={root}", "roam.conf")
            bad += [] if re.search(r"^roam:", (root / "etc/passwd").read_text(), re.M) else ["no user roam was made"]
        return bad + ([] if re.search(r"^u roam ", users, re.M) else ["sysusers names another user"])

    def purge():
        root = at["root"]
        root.sh("apt-get -q -y purge libroam-dev roamd")
        left = root.sh("find / -xdev \\( -path /proc -o -path /sys -o -path /srv -o -path /tmp \\) -prune -o -name '*roam*' -print")
        # (the user's home; what dpkg keeps of a user is its own business)
        return [f"left behind: {x}" for x in left.split() if x not in ("/run/roam",)]

    try:
        return tap.run([(name, checked(fn)) for name, fn in (
            ("dpkg-buildpackage", build), ("what is in the packages", contents),
            ("installed in a clean root", install), ("no licence is claimed", no_licence),
            ("pkg-config there", use("for p in echo ask; do cc $p.c -o b/$p $(pkg-config --cflags --libs roam); done")),
            ("make there", use("cp make/Makefile b; make -C b ROAM=/usr LIBDIR=$(dirname $(find /usr/lib -name libroam.a))")),
            ("CMake there", use("cp cmake/CMakeLists.txt b; cd b; cmake . >/dev/null; make >/dev/null; cd ..")),
            ("the agent there", agent), ("unit and user", unit), ("purged", purge))])
    finally:
        if "root" in at:
            for kind in ("dev", "sys", "proc"):
                subprocess.run(["umount", "-R", "-l", at["root"].path / kind], check=False)
        if not args.keep:
            run("rm", "-rf", "--one-file-system", tmp)


if __name__ == "__main__":
    sys.exit(main())
