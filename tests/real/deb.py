"""Debian source packages: fetched once, unpacked, kept."""
import glob
import os
import re
import shutil
import subprocess

from harness import Skip


def run(argv, cwd=None, log=None, env=None):
    """Runs a command: exit status, output. With `log` both are also kept."""
    done = subprocess.run(argv, cwd=cwd, stdout=subprocess.PIPE, env=env,
                          stdin=subprocess.DEVNULL,
                          stderr=subprocess.STDOUT, text=True, errors="replace")
    if log:
        with open(log, "a") as f:
            f.write(f"$ {' '.join(argv)}\n{done.stdout}")
    return done.returncode, done.stdout


def debian_sources():
    """The installed Debian entries as deb-src ones: same URI, same suite."""
    out = []
    for path in glob.glob("/etc/apt/sources.list.d/*.sources"):
        with open(path) as f:
            stanzas = re.split(r"\n\s*\n", f.read())
        for stanza in stanzas:
            field = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.M))
            if "deb" in field.get("Types", "").split() and \
                    "debian" in field.get("URIs", "") and \
                    "main" in field.get("Components", "").split():
                out.append("Types: deb-src\n" + "".join(
                    f"{k}: {field[k]}\n" for k in
                    ("URIs", "Suites", "Components", "Signed-By") if k in field))
    for path in ["/etc/apt/sources.list", *glob.glob("/etc/apt/sources.list.d/*.list")]:
        if not os.path.exists(path):
            continue
        with open(path) as f:
            for m in re.finditer(r"^deb\s+(?:\[(.*?)\]\s+)?(\S*debian\S*)\s+(\S+)"
                                 r"\s+(.*\bmain\b.*)$", f.read(), re.M):
                out.append(f"Types: deb-src\nURIs: {m[2]}\nSuites: {m[3]}\n"
                           f"Components: main\n" + "".join(
                               f"Signed-By: {v}\n" for v in
                               re.findall(r"signed-by=(\S+)", m[1] or "")))
    return out


def _apt(top):
    """apt-get with everything private: the host's apt state is neither used nor changed."""
    for tool in ("apt-get", "dpkg-source", "make", "cc"):
        if not shutil.which(tool):
            raise Skip(f"{tool} is not installed")
    sources = debian_sources()
    if not sources:
        raise Skip("no Debian entry in /etc/apt that could be made a deb-src one")
    for d in ("apt/lists/partial", "apt/cache/archives/partial"):
        os.makedirs(os.path.join(top, d), exist_ok=True)
    entry = os.path.join(top, "apt", "roam.sources")
    with open(entry, "w") as f:
        f.write("\n".join(sources))
    return ["apt-get", "-q", "-o", f"Dir::Etc::sourcelist={entry}",
            "-o", "Dir::Etc::sourceparts=-",
            "-o", f"Dir::State::lists={top}/apt/lists",
            "-o", f"Dir::Cache={top}/apt/cache", "-o", "APT::Sandbox::User=",
            "-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=20"]


def _versions(apt, package, log):
    """Newest first: a mirror can list a version whose files it does not have (yet)."""
    _, out = run([apt[0].replace("get", "cache"), *[w for w in apt[1:] if w != "-q"],
                  "showsrc", package], log=log)
    found = []
    for stanza in out.split("\n\n"):
        m = re.search(rf"^Package: {re.escape(package)}$", stanza, re.M) and \
            re.search(r"^Version: (\S+)$", stanza, re.M)
        if m and m[1] not in found:
            found.append(m[1])
    return found


def fetch(package, top, log):
    """The unpacked source tree of a package, downloaded once."""
    home = os.path.join(top, "src", package)
    trees = [t for t in glob.glob(os.path.join(home, "*", "")) if os.path.isdir(t)]
    if trees:
        return trees[0].rstrip("/")
    apt = _apt(top)
    if not glob.glob(os.path.join(top, "apt", "lists", "*_Sources*")):
        rc, out = run([*apt, "update"], log=log)
        if rc != 0:
            raise Skip(f"apt-get update failed (no network?): {last_line(out)}")
    new = home + ".new"
    for version in _versions(apt, package, log) or [""]:
        shutil.rmtree(new, ignore_errors=True)
        os.makedirs(new)
        rc, out = run([*apt, "source", package + (version and "=" + version)], new, log)
        if rc == 0:
            os.rename(new, home)
            return fetch(package, top, log)
    raise Skip(f"apt-get source {package} failed (no network?): {last_line(out)}")


def last_line(text):
    return (text.strip().splitlines() or ["no output"])[-1]
