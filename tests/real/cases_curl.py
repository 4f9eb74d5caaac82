"""curl: a long download by https, and a part of its own tests."""
import functools
import hashlib
import os
import re
import shutil
import time

import cases_nginx
import servers
import suites
import ways

FILES = 60


def download(case, way):
    """One connection, many files; what came is compared."""
    front = cases_nginx.start_nginx(case, way, way.server, "front", servers.FILES, servers.PORT)
    n = FILES * (10 if case.config.full else 1)
    out = os.path.join(case.dir, "out")
    began = time.monotonic()
    c = case.start([case.config.programs.curl.bin(way.client, "curl"), "-sS", "--fail", "--insecure",
                    f"https://127.0.0.1:{servers.TLS}/large?[1-{n}]", "-o", out + "#1"], way.env(case))
    c.succeed(60)
    took = time.monotonic() - began
    with open(f"{case.dir}/www/large", "rb") as f:
        wanted = hashlib.sha256(f.read()).digest()
    for i in range(1, n + 1):
        with open(out + str(i), "rb") as f:
            case.check(hashlib.sha256(f.read()).digest() == wanted, f"file {i} is another one")
    way.verify(case, [front], [c], 1)
    cases_nginx.stop(case, front)
    case.config.table.put(f"curl, nginx, https, {n} MiB", way.column, f"{n / took:.0f} MiB/s")


# ---- its own tests ----

def stage(case, way):
    """The tree as runtests.pl wants it, its programs those of this way."""
    b = case.config.programs.curl
    top = os.path.join(case.dir, "run")
    shutil.copytree(os.path.join(b.tree, "tests"), os.path.join(top, "tests"), symlinks=True,
                    ignore=shutil.ignore_patterns("*.o", "libtest", "unit", ".deps", ".libs", "log"))
    os.mkdir(os.path.join(top, "src"))
    for d in ("libtest", "unit"):
        os.mkdir(os.path.join(top, "tests", d))
    for name in ("lib", "include", "docs", "curl-config", "packages"):
        os.symlink(os.path.join(b.tree, name), os.path.join(top, name))
    shutil.copy(b.bin(way.client, "curl"), os.path.join(top, "src"))
    for name in ("sws", "sockfilt"):
        os.unlink(os.path.join(top, "tests", "server", name))
        shutil.copy(b.bin(way.server, name), os.path.join(top, "tests", "server"))
    return os.path.join(top, "tests")


def runtests(case, way):
    which = "1 to 450" if case.config.full else "1 to 40"
    top = stage(case, way)
    p = case.start(["sh", "-c", f"cd {top} && exec perl runtests.pl -a -n -k -am {which} '!~flaky' '!323'"],
                   way.env(case, srcdir=top, ROAM_LOG="error"))
    p.wait(800)
    found = {number: word.lower() for word, number in re.findall(r"^(PASS|FAIL|SKIP): (\d+) -", p.out(), re.M)}
    case.check(len(found) >= 30, f"only {len(found)} tests were run:\n{p.out()[-1500:]}")
    # Some compare what is on the standard error output, so the log is off; most of their connections
    # end before an upgrade pays. That curl's are upgraded is what the download shows.
    suites.verdict(case, f"curl runtests {which}", way, found, None)


def cases(_args):
    part = functools.partial
    for way in ways.ALL:
        yield f"curl: https, {way.column}", 100, part(download, way=way)
    for way in (ways.UNWRAPPED, ways.PERSISTENT, ways.RING):
        yield f"curl: its runtests, {way.column}", 900, part(runtests, way=way)
