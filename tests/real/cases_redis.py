"""redis: redis-benchmark in each way, under breaks, and redis' own tests."""
import functools
import os
import re
import shutil

import suites
import ways
from harness import describe, wait_for

PORT = 6390
CLIENTS = 20
# What each test of redis-benchmark leaves behind when it ran exactly n times.
TESTS = {
    "set": ("GET key:__rand_int__", None),
    "get": None,
    "incr": ("GET counter:__rand_int__", "n"),
    "lpush": ("LLEN mylist", "n"),
    "rpush": ("LLEN mylist", "n"),
    "hset": ("HLEN myhash", "1"),
    "mset": ("EXISTS key:__rand_int__", "1"),
}


def server(case, way, *more):
    p = case.start([case.config.programs.redis.bin(way.server, "redis-server"), "--port", PORT,
                    "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no",
                    "--dir", case.dir, "--logfile", "", *more], way.env(case))
    p.expect("Ready to accept connections", 10)
    return p


def cli(case, way, *words):
    p = case.start([case.config.programs.redis.bin(way.client, "redis-cli"), "-p", PORT, *words],
                   way.env(case))
    p.succeed(10)
    return p.out().strip()


def benchmark(case, way, test, n, pipeline):
    return case.start([case.config.programs.redis.bin(way.client, "redis-benchmark"),
                       "-h", "127.0.0.1", "-p", PORT, "-c", CLIENTS, "-n", n, "-P", pipeline,
                       "-t", test, "-q"], way.env(case))


def check_benchmark(case, b, test, seconds=60):
    """Requests per second; a word of an error fails."""
    b.succeed(seconds)
    # The library's own log speaks of errors that it mends.
    text = re.sub(r"^roam\[\d+\]: .*$", "", b.out() + b.err(), flags=re.M)
    # -q redraws its line with \r; errors come on lines of their own
    text = text.replace("\r", "\n")
    bad = re.search(r"^.*(\bError\b|\bERR\b|Could not|WARNING).*$", text, re.M | re.I)
    case.check(not bad, f"{test}: {bad[0] if bad else ''}")
    rate = re.search(r"([\d.]+) requests per second", text)
    case.check(rate, f"{test}: no result was printed")
    return float(rate[1])


def check_effect(case, way, test, n):
    """Lost or repeated commands leave another number than n."""
    if not TESTS[test]:
        return
    command, wanted = TESTS[test]
    got = cli(case, way, *command.split())
    if wanted:
        wanted = str(n) if wanted == "n" else wanted
        case.check(got == wanted, f"{test}: {command} is {got}, not {wanted}")


def whole_batches(n, pipeline):
    """The benchmark rounds up to them; so the counts are exact."""
    return n - n % (pipeline * CLIENTS)


def workload(case, way, pipeline):
    s = server(case, way)
    rates = {}
    for test in ["set", "incr", "lpush"] if not case.config.full else TESTS:
        n = whole_batches(40000 * (4 if pipeline > 1 else 1) * (5 if case.config.full else 1), pipeline)
        cli(case, way, "FLUSHALL")
        b = benchmark(case, way, test, n, pipeline)
        rates[test] = check_benchmark(case, b, test)
        check_effect(case, way, test, n)
        way.verify(case, [s], [b], CLIENTS)
    case.check(cli(case, way, "PING") == "PONG", "no PONG")
    rc = s.stop()
    case.check(rc == 0, f"the server ended with {describe(rc)}")
    case.config.table.put(f"redis-benchmark -P {pipeline}, set/incr", way.column,
                          "/".join(f"{rates[t] / 1000:.0f}k" for t in ("set", "incr")) + " a second")


def breaks(case, way, pipeline):
    case.need("both")
    s = server(case, way)
    # On a ring it is some times as fast, and there must be time for breaks.
    n = whole_batches(100000 * (4 if pipeline > 1 else 1) * (5 if way.link == "ring" else 1), pipeline)
    total = resumed = 0
    for test in TESTS:
        cli(case, way, "FLUSHALL")
        known = len(way.arrived([s]))
        b = benchmark(case, way, test, n, pipeline)
        # Before all are upgraded a break is the business of plain TCP.
        # The upgrade is one step, but each end logs its own half.
        wait_for(lambda: not b.alive() or len(way.arrived([b])) >= CLIENTS and
                 len(way.arrived([s])) >= known + CLIENTS, 10, f"{CLIENTS} upgrades")
        case.check(b.alive(), f"{test} ended before it was upgraded")
        br = case.breaker([s, b], how="both", interval="5:40", until=b)
        case.seed += 1
        check_benchmark(case, b, test)
        total += case.breaks_of(br)
        resumed += len(b.events("resumed"))
        case.check(s.alive(), "the server is gone")
        check_effect(case, way, test, n)
    resumed = max(resumed, len(s.events("resumed")))
    case.note(f"{total} breaks, {resumed} resumed")
    case.check(total >= case.config.min_breaks, f"only {total} breaks, {case.config.min_breaks} wanted")
    case.check(resumed >= total // 2, f"{total} breaks but only {resumed} lines 'resumed'")
    rc = s.stop()
    case.check(rc == 0, f"the server ended with {describe(rc)}")
    case.config.table.put(f"redis-benchmark -P {pipeline}, breaks", way.column, f"{total} breaks, no error")


# ---- redis' own tests ----

FAST = ["unit/protocol", "unit/pubsub", "unit/quit", "integration/replication-3"]
FULL = FAST + ["unit/type/list", "unit/type/hash", "unit/type/stream", "unit/multi", "unit/scripting",
               "unit/querybuf", "unit/networking", "unit/obuf-limits", "unit/tracking", "unit/wait",
               "unit/introspection", "unit/auth", "unit/dump", "unit/other", "unit/pause",
               "unit/client-eviction", "integration/replication", "integration/replication-psync",
               "integration/replication-4", "integration/block-repl", "integration/redis-cli",
               "integration/redis-benchmark"]


def stage(case, kind):
    """A directory as runtest wants it, with this binary in it."""
    b = case.config.programs.redis
    top = os.path.join(case.dir, "run")
    os.makedirs(os.path.join(top, "src"))
    for name in ("tests", "utils"):
        shutil.copytree(os.path.join(b.tree, name), os.path.join(top, name), symlinks=True)
    for name in ("runtest", "redis.conf"):
        shutil.copy(os.path.join(b.tree, name), top)
    for name in os.listdir(b.bin(kind)):
        os.symlink(b.bin(kind, name), os.path.join(top, "src", name))
    os.symlink(b.bin(kind, "redis-server"), os.path.join(top, "src", "redis-sentinel"))
    return top


def runtest(case, way):
    units = FULL if case.config.full else FAST
    p = case.start(["sh", "-c", f"cd {stage(case, way.server)} && exec ./runtest --clients 2 --durable "
                    "--dont-clean --baseport 21111 " + " ".join(f"--single {u}" for u in units)],
                   way.env(case))
    p.wait(1500)
    text = re.sub(r"\x1b\[[0-9;]*m", "", p.out())
    found = {}
    for word, name in re.findall(r"^\[(ok|err|skip|ignore|exception)\]: (.*)$", text, re.M):
        name = re.sub(r" \(\d+ ms\)$", "", name)
        # a failure says more in its name, and where
        found[re.split(r" in tests/|: [A-Z]", name)[0] if word == "err" else name] = word
    case.check(len(found) >= 10 * len(units) // 2, f"only {len(found)} tests were run:\n{text[-1500:]}")
    logs = suites.logs(os.path.join(case.dir, "run", "tests", "tmp"), "stderr")
    suites.verdict(case, "redis runtest", way, found, logs)


def cases(_args):
    part = functools.partial
    for way in ways.ALL:
        yield f"redis: benchmark, {way.column}", 200, part(workload, way=way, pipeline=1)
        yield f"redis: benchmark pipelined, {way.column}", 200, part(workload, way=way, pipeline=16)
    for way in (ways.PERSISTENT, ways.RING):
        for pipeline in (1, 16):
            yield (f"redis: breaks, {way.column}, {pipeline} at a time", 200,
                   part(breaks, way=way, pipeline=pipeline))
    for way in (ways.UNWRAPPED, ways.PERSISTENT, ways.RING):
        yield f"redis: its runtest, {way.column}", 1800, part(runtest, way=way)
