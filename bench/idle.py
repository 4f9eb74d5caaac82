#!/usr/bin/env python3
"""One busy connection beside many idle ones: the ratio of its round trips to those without them."""
import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--node", default=os.path.join(HERE, "..", "build", "bench", "roam-bench-idle"))
    p.add_argument("--idle", type=int, default=10000)
    p.add_argument("--slices", type=int, default=30)
    p.add_argument("--link", default="ring", help="ROAM_LINK")
    o = p.parse_args()
    procs = {}
    with tempfile.TemporaryDirectory(prefix="roam-bench-") as top:
        for n in (0, o.idle):
            env = dict(os.environ, ROAM_DIR=os.path.join(top, str(n)), ROAM_LINK=o.link)
            procs[n] = subprocess.Popen([o.node, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, bufsize=1, env=env)
            if procs[n].stdout.readline().strip() != "ready":
                raise SystemExit(f"the node with {n} idle connections ended")
        got = {n: [] for n in procs}
        for _ in range(o.slices):
            for n in random.sample(list(procs), 2):
                procs[n].stdin.write("go\n")
                got[n].append(float(procs[n].stdout.readline()))
        for q in procs.values():
            q.stdin.close()
            q.wait(30)
    r = sorted(b / a for a, b in zip(got[0], got[o.idle]))
    print(f"{o.link}: {statistics.median(got[0]):.0f} ns alone, {statistics.median(got[o.idle]):.0f} ns beside "
          f"{o.idle} idle; ratio {statistics.median(r):.3f} (q1 {r[len(r) // 4]:.3f}, q3 {r[3 * len(r) // 4]:.3f})")


if __name__ == "__main__":
    main()
