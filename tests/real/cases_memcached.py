"""memcached, whose sockets libevent.so watches: behind nginx, and its own tests."""
import functools
import os
import re
import shutil
import socket

import cases_nginx
import servers
import suites
import ways
from harness import Fail, wait_for


def start(case, way, port=servers.MEMCACHED):
    p = case.start([case.config.programs.memcached.bin(way.server, "memcached"), "-u", "root",
                    "-l", "127.0.0.1", "-p", port, "-U", "0", "-t", "2"], way.env(case))

    def up():
        if not p.alive():
            raise Fail(f"memcached ended with {p.popen.returncode}")
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0
    wait_for(up, 10, "memcached to listen")
    return p


def fill(port, key, value):
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(b"set %s 0 0 %d\r\n%s\r\n" % (key.encode(), len(value), value))
        if s.recv(100) != b"STORED\r\n":
            raise Fail("memcached did not store")


def behind_nginx(case, way):
    """wrk - nginx - memcached; every answer is compared with what was stored."""
    m = start(case, way)
    servers.contents(case)
    path = f"{case.dir}/www/small"
    with open(path, "rb") as f:
        fill(servers.MEMCACHED, "/small", f.read())
    front = cases_nginx.start_nginx(case, way, way.client, "front", servers.CACHE, servers.PORT,
                                    back=f"127.0.0.1:{servers.MEMCACHED}")
    t = cases_nginx.seconds_of(case)
    w = case.start(servers.wrk_argv(case, "plain", f"http://127.0.0.1:{servers.PORT}/small", t, path),
                   way.env(case))
    rate, _ = servers.check_wrk(case, w, t, verify=True)
    way.verify(case, [m], [front], servers.CONNECTIONS // 2)
    case.config.table.put("memcached, nginx asks, 1 kB", way.column, f"{rate / 1000:.1f}k a second")
    cases_nginx.stop(case, front)
    m.stop()


def breaks(case, way):
    case.need("both")
    m = start(case, way)
    servers.contents(case)
    path = f"{case.dir}/www/large"
    with open(path, "rb") as f:
        fill(servers.MEMCACHED, "/large", f.read()[:500000])
    with open(path, "r+b") as f:
        f.truncate(500000)
    front = cases_nginx.start_nginx(case, way, way.client, "front", servers.CACHE, servers.PORT,
                                    back=f"127.0.0.1:{servers.MEMCACHED}")
    t = 8 if case.config.full else 4
    w = case.start(servers.wrk_argv(case, "plain", f"http://127.0.0.1:{servers.PORT}/large", t, path),
                   way.env(case))
    way.wait([m], [front], servers.CONNECTIONS // 2)
    br = case.breaker([m], how="both", interval="5:40", until=w)
    servers.check_wrk(case, w, t, verify=True)
    total, resumed = case.breaks_of(br), len(m.events("resumed"))
    case.note(f"{total} breaks, {resumed} resumed")
    case.check(total >= case.config.min_breaks, f"only {total} breaks, {case.config.min_breaks} wanted")
    case.check(resumed >= total // 2, f"{total} breaks but only {resumed} lines 'resumed'")
    case.config.table.put("memcached, nginx asks, 500 kB, breaks", way.column, f"{total} breaks, no error")
    cases_nginx.stop(case, front)
    m.stop()


# ---- its own tests: perl speaks to it, so its end is plain ----

FAST = ["binary-get", "cas", "getset", "incrdecr", "flags", "noreply", "metaget", "stats", "touch",
        "bogus-commands", "issue_42", "stats-conns"]
# slow or for what was not built in: TLS, SASL, the proxy, a disk
NOT = re.compile(r"^(ssl_|binary-sasl|sasl|proxy|.*extstore|lru-maintainer|slabs-reassign|slabs_reassign|slabhang|"
                 r"evictions|dyn-maxbytes|expirations|issue_1[06]|chunked-items|restart)")


def own_tests(case, way):
    b = case.config.programs.memcached
    top = os.path.join(case.dir, "run")
    shutil.copytree(b.tree, top, symlinks=True, ignore=shutil.ignore_patterns("*.o", ".deps", "debian"))
    for name in ("memcached", "memcached-debug"):
        os.unlink(os.path.join(top, name))
        shutil.copy(b.bin(way.server, name), top)
    if case.config.full:
        tests = sorted(n[:-2] for n in os.listdir(os.path.join(top, "t")) if n.endswith(".t") and not NOT.match(n))
    else:
        tests = FAST
    found = {}
    for name in tests:
        p = case.start(["sh", "-c", f"cd {top} && exec timeout 120 perl -I./t/lib t/{name}.t"],
                       way.env(case, T_MEMD_USE_DAEMON=None))
        p.wait(130)
        # Some make another number of checks each time: a file is one result, and so is each check that failed.
        skip = re.search(r"^1\.\.0 # SKIP", p.out(), re.M)
        found[name] = "skip" if skip else "ok" if p.popen.returncode == 0 else "failed"
        for rest in re.findall(r"^not ok (\d+)", p.out(), re.M):
            found[f"{name} {rest}"] = "not ok"
    logs = suites.Log("\n".join(p.err() for p in case.procs))
    suites.verdict(case, "memcached t/", way, found, logs)


def cases(_args):
    part = functools.partial
    for way in ways.ALL:
        yield f"memcached: nginx asks, {way.column}", 60, part(behind_nginx, way=way)
    for way in (ways.PERSISTENT, ways.RING):
        yield f"memcached: breaks, {way.column}", 60, part(breaks, way=way)
    for way in (ways.UNWRAPPED, ways.PLAIN_CLIENT):
        yield f"memcached: its t/, {way.column}", 900, part(own_tests, way=way)
