"""libuv's own test program: both ends of its connections are in it."""
import functools
import os
import re

import suites
import ways
from harness import NOBODY

# Few tests send enough to be upgraded: these do, or come near.
FAST = re.compile(r"tcp|pipe_conn|pipe_sendmsg|poll|shutdown|delayed_accept|connection_fail|fork_|ping_pong|spawn|"
                  r"ipc|watcher_cross_stop|not_writable|not_readable|queue_foreach|signal_multiple|embed|fs_event_error")


USER = NOBODY if os.geteuid() == 0 else None


def tests_of(case, way):
    p = case.start([case.config.programs.libuv.bin(way.server, "uv_run_tests_a"), "--list"], way.env(case),
                   uid=USER)
    p.succeed(20)
    names = [line.strip() for line in p.out().splitlines() if line.strip() and not line.startswith("roam[")]
    return [n for n in names if case.config.full or FAST.search(n)]


def run(case, way):
    """Not as root: two tests refuse that. A directory of its own, with the fixtures."""
    b = case.config.programs.libuv
    top = os.path.join(case.dir, "run")
    os.makedirs(os.path.join(top, "test"))
    os.symlink(os.path.join(b.tree, "test", "fixtures"), os.path.join(top, "test", "fixtures"))
    os.symlink(b.bin(way.server, "uv_run_tests_a"), os.path.join(top, "uv_run_tests_a"))
    for d in (case.dir, top, os.path.join(top, "test"), case.roam_dir):
        os.chmod(d, 0o755 if d != case.roam_dir else 0o700)
        if USER is not None:
            os.chown(d, USER, USER)
    found = {}
    for name in tests_of(case, way):
        p = case.start(["sh", "-c", f"cd {top} && exec timeout 90 ./uv_run_tests_a {name}"],
                       way.env(case, HOME=top, UV_TEST_TIMEOUT_MULTIPLIER="3"),
                       uid=USER)
        p.wait(100)
        m = re.search(r"^(ok|not ok) 1 - \S+(.*)$", p.out(), re.M)
        found[name] = "failed" if not m else "skip" if "# SKIP" in m[2] else m[1]
    logs = suites.Log("\n".join(p.err() + p.out() for p in case.procs))
    suites.verdict(case, "libuv uv_run_tests_a", way, found, logs)


def cases(_args):
    part = functools.partial
    for way in (ways.UNWRAPPED, ways.PERSISTENT, ways.RING):
        yield f"libuv: uv_run_tests_a, {way.column}", 1500, part(run, way=way)
