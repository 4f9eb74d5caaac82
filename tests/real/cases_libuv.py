"""libuv's own test program: both ends of its connections are in it."""
import functools
import os
import re
import socket
import time

import suites
import ways
from harness import NOBODY, wait_for

# Few tests send enough to be upgraded: these do, or come near.
FAST = re.compile(r"tcp|pipe_conn|pipe_sendmsg|poll|shutdown|delayed_accept|connection_fail|fork_|ping_pong|spawn|"
                  r"ipc|watcher_cross_stop|not_writable|not_readable|queue_foreach|signal_multiple|embed|fs_event_error")


USER = NOBODY if os.geteuid() == 0 else None


def tests_of(case, way):
    p = case.start([case.config.programs.libuv.bin(way.server, "uv_run_tests_a"), "--list"], way.env(case),
                   uid=USER)
    p.succeed(20)
    names = [line.split()[0] for line in p.out().splitlines() if re.match(r"\w+( |$)", line)]
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
    # It keeps what its children say: that they are upgraded is what the next case shows.
    suites.verdict(case, "libuv uv_run_tests_a", way, found, None)


def parts(case, way):
    """The two processes of a test, without the one that starts them and swallows the log."""
    exe = {kind: case.config.programs.libuv.bin(kind, "uv_run_tests_a") for kind in ("plain", "roam")}
    os.chmod(case.dir, 0o755)
    if USER is not None:
        os.chown(case.roam_dir, USER, USER)
    server = case.start([exe[way.server], "tcp_ping_pong", "tcp4_echo_server"], way.env(case), uid=USER)
    wait_for(listens, 10, "libuv's echo server")
    took, clients = {}, []
    for test in ("tcp_ping_pong", "tcp_writealot"):
        began = time.monotonic()
        clients.append(case.start([exe[way.client], test, test], way.env(case), uid=USER))
        clients[-1].succeed(60)
        took[test] = time.monotonic() - began
    # The first ends after some 30 ms, and a process needs about that for its first ring.
    way.verify(case, [server], clients, 1)
    case.config.table.put("libuv ping_pong, writealot", way.column, " ".join(f"{t:.2f}" for t in took.values()) + " s")
    server.stop()


def listens():
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", 9123)) == 0


def cases(_args):
    part = functools.partial
    for way in (ways.UNWRAPPED, ways.PERSISTENT, ways.RING):
        yield f"libuv: its echo server, {way.column}", 60, part(parts, way=way)
        yield f"libuv: uv_run_tests_a, {way.column}", 1500, part(run, way=way)
