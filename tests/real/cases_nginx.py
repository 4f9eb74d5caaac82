"""nginx under wrk: http, https through libssl.so, a proxy; in each way, and under breaks."""
import functools
import os

import servers
import ways
from harness import wait_for


def start_nginx(case, way, kind, name, http, port, **values):
    p = case.start(servers.nginx_argv(case, kind, name, http, port=port, **values), way.env(case))
    # Listening, and its workers there: the pid file comes after the first.
    wait_for(lambda: p.alive() and os.path.exists(f"{case.dir}/{name}.pid") and
             len(children(p.pid)) >= 2 or not p.alive(), 10, f"{name} to be up")
    case.check(p.alive(), f"{name} is gone")
    return p


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return f.read().split()


def wrk(case, way, url, seconds, verify=None):
    return case.start(servers.wrk_argv(case, way.client, url, seconds, verify), way.env(case))


def stop(case, *procs):
    for p in procs:
        rc = p.stop()
        case.check(rc == 0, f"{p.label} ended with {rc}")
        log = os.path.join(case.dir, "front.log")
        with open(log) as f:
            bad = [line for line in f if "[alert]" in line or "[crit]" in line or "[emerg]" in line]
        case.check(not bad, f"nginx' log: {bad[:1]}")


def seconds_of(case):
    return 10 if case.config.full else 1 if case.config.fast else 2


def files(case, way):
    """The same files by http and by https."""
    front = start_nginx(case, way, way.server, "front", servers.FILES, servers.PORT)
    for what, base in (("http", f"http://127.0.0.1:{servers.PORT}"),
                       ("https", f"https://127.0.0.1:{servers.TLS}")):
        for name in ("small", "large"):
            t = seconds_of(case)
            w = wrk(case, way, f"{base}/{name}", t, f"{case.dir}/www/{name}")
            rate, volume = servers.check_wrk(case, w, t, verify=True)
            way.verify(case, [front], [w], servers.CONNECTIONS)
            cell = f"{rate / 1000:.1f}k a second" if name == "small" else f"{volume} a second"
            case.config.table.put(f"nginx, wrk, {what}, {'1 kB' if name == 'small' else '1 MiB'}",
                                  way.column, cell)
    stop(case, front)


def proxy(case, way):
    """wrk - nginx - nginx: the middle one has both ends of connections."""
    back = start_nginx(case, way, way.server, "back", servers.FILES, servers.BACK)
    front = start_nginx(case, way, way.server, "front", servers.PROXY, servers.PORT)
    t = seconds_of(case)
    w = wrk(case, way, f"http://127.0.0.1:{servers.PORT}/small", t, f"{case.dir}/www/small")
    rate, _ = servers.check_wrk(case, w, t, verify=True)
    if way.both():
        way.verify(case, [front], [w], servers.CONNECTIONS)
        way.verify(case, [back], [front], servers.CONNECTIONS // 2)
    else:
        case.check(not w.events("upgraded"), "wrk was upgraded with a plain end")
    case.config.table.put("nginx, wrk, proxy, 1 kB", way.column, f"{rate / 1000:.1f}k a second")
    stop(case, front, back)


def breaks(case, way, what):
    case.need("both")
    front = start_nginx(case, way, way.server, "front", servers.FILES, servers.PORT)
    base = f"http://127.0.0.1:{servers.PORT}" if what == "http" else f"https://127.0.0.1:{servers.TLS}"
    t = 8 if case.config.full else 4
    w = wrk(case, way, f"{base}/large", t, f"{case.dir}/www/large")
    way.wait([front], [w], servers.CONNECTIONS)
    br = case.breaker([w], how="both", interval="5:40", until=w)
    servers.check_wrk(case, w, t, verify=True)
    total, resumed = case.breaks_of(br), len(w.events("resumed"))
    case.note(f"{total} breaks, {resumed} resumed")
    case.check(total >= case.config.min_breaks, f"only {total} breaks, {case.config.min_breaks} wanted")
    case.check(resumed >= total // 2, f"{total} breaks but only {resumed} lines 'resumed'")
    case.config.table.put(f"nginx, wrk, {what}, 1 MiB, breaks", way.column, f"{total} breaks, no error")
    stop(case, front)


def cases(_args):
    part = functools.partial
    for way in ways.ALL:
        yield f"nginx: http and https, {way.column}", 120, part(files, way=way)
        yield f"nginx: proxy, {way.column}", 60, part(proxy, way=way)
    for way in (ways.PERSISTENT, ways.RING):
        for what in ("http", "https"):
            yield f"nginx: breaks, {what}, {way.column}", 60, part(breaks, way=way, what=what)
