#!/usr/bin/env python3
"""counts.py HOT HOT-ROAM HOT_RING OPTIMIZATION SANITIZE: how many instructions roam adds to a hot path.

Each operation runs under callgrind twice, with so many calls and with twice as many;
the difference is the calls, whatever came before them. What the program without
roam takes is subtracted. Only the program's own thread counts. Instructions, not time: the same on a busy machine.

limits.txt has the limits, and where they come from.
"""
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "meta")]
import tap  # noqa: E402

CALLS = 1000
# Of a program on persistent TCP, and of the ring's core.
SOCKETS = ("send", "recv", "poll", "foreign")
RING = {"ring-put": "put", "ring-get": "get", "ring-poll": "look", "ring-poll-empty": "empty"}


def limits():
    found = {}
    for line in (HERE / "limits.txt").read_text().splitlines():
        words = line.split("#")[0].split()
        if words:
            found[words[0]] = int(words[1])
    return found


def instructions(path):
    """Of the first thread."""
    files = sorted(pathlib.Path(path).parent.glob(pathlib.Path(path).name + "*"))
    for f in files:
        text = f.read_text()
        if re.search(r"^thread: 1$", text, re.M) or len(files) == 1:
            m = re.search(r"^(?:totals|summary): (\d+)", text, re.M)
            if m:
                return int(m[1])
    raise RuntimeError("callgrind wrote no summary of the first thread: %s" % [f.name for f in files])


def valgrind(argv, out, env):
    done = subprocess.run(["valgrind", "--tool=callgrind", "--separate-threads=yes", "--fair-sched=yes",
                           "--callgrind-out-file=" + out, *argv],
                          env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    if done.returncode:
        raise RuntimeError("%s: %d: %s" % (" ".join(argv), done.returncode, done.stderr[-600:]))
    return instructions(out), done.stderr


def stripped(path, where):
    """A copy without what a debugger reads: valgrind gives up on some of what newer compilers write there."""
    out = os.path.join(where, os.path.basename(path))
    subprocess.run(["strip", "--strip-debug", "-o", out, path], check=True)
    return out


def environment(tmp):
    env = {k: v for k, v in os.environ.items() if not k.startswith("ROAM")}
    return dict(env, ROAM_DIR=tmp, ROAM_LOG="info", ROAM_LINK="tcp", ROAM_CODEC="off")


def socket_run(binary, op, upgraded, tmp, count):
    """Instructions of the whole program with so many calls; its peer is not under valgrind."""
    env = environment(tmp)
    with subprocess.Popen([binary, "serve", "1"], stdout=subprocess.PIPE, env=env, text=True,
                          stderr=subprocess.DEVNULL) as server:
        try:
            port = server.stdout.readline().split()[1]
            n, said = valgrind([binary, op, port, str(count)], os.path.join(tmp, "cg.%d" % count), env)
        finally:
            server.kill()
    if (" upgraded " in said) != upgraded:
        raise RuntimeError("%s: %supgraded: %s" % (op, "not " if upgraded else "", said[-600:]))
    return n


def per_call(one):
    with tempfile.TemporaryDirectory(prefix="roam-counts-") as tmp:
        few, many = (one(tmp, n) for n in (CALLS, 2 * CALLS))
    return (many - few) / CALLS


def judge(name, ours, theirs, limit):
    print("# %s: %.1f instructions, %.1f of them without roam; %.1f more, the limit is %d" % (
        name, ours, theirs, ours - theirs, limit), flush=True)
    if ours < 1:
        return ["%s: nothing was counted" % name]
    if ours - theirs > limit:
        return ["%s: %.1f instructions, the limit is %d; if that has to be, change "
                "tests/counts/limits.txt and say why" % (name, ours - theirs, limit)]
    return []


def sockets(plain, roam, op, limit):
    return lambda: judge(op, *(per_call(lambda tmp, n: socket_run(binary, op, binary == roam, tmp, n))
                               for binary in (roam, plain)), limit)


def ring(binary, name, limit):
    def one(tmp, n):
        return valgrind([binary, RING[name], str(n)], os.path.join(tmp, "cg.%d" % n), environment(tmp))[0]
    return lambda: judge(name, per_call(one), 0, limit)


def main():
    plain, roam, hot_ring, optimization, sanitize = sys.argv[1:6]
    why = ""
    if not shutil.which("valgrind"):
        why = "valgrind is not installed"
    elif not shutil.which("strip"):
        why = "strip is not installed"
    elif platform.machine() != "x86_64":
        why = "the limits are of x86-64"
    elif optimization not in ("2", "3"):
        why = "counts are of an optimized build, not of -O%s" % optimization
    elif sanitize != "none":
        why = "valgrind does not run what a sanitizer instruments"
    if why:
        print("1..0 # SKIP %s" % why)
        return 0
    found, names = limits(), [*SOCKETS, *RING]
    if set(found) != set(names):
        print("1..1\nnot ok 1 - limits\n# limits.txt has %s, measured are %s" % (sorted(found), sorted(names)))
        return 1
    with tempfile.TemporaryDirectory(prefix="roam-counts-") as where:
        plain, roam, hot_ring = (stripped(x, where) for x in (plain, roam, hot_ring))
        return tap.run([("instructions: " + x, sockets(plain, roam, x, found[x])) for x in SOCKETS] +
                       [("instructions: " + x, ring(hot_ring, x, found[x])) for x in RING])


if __name__ == "__main__":
    sys.exit(main())
