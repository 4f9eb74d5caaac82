#!/usr/bin/env python3
"""Other people's programs, as they are and re-linked with roam, side by side.

Fetches Debian's source packages, builds each program once, links it a second
time with the library, and runs its own tests and a workload in each way to
link the two ends. A result counts only when the binary really is re-linked and
its connections were what the column of the table says. The output is TAP, with
the table at its end. --fast is the minute for the CI, --full all of their tests.
"""
import argparse
import json
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE] + [os.path.join(HERE, "..", d) for d in ("support", "net", "meta")]
sys.dont_write_bytecode = True

import build  # noqa: E402
import harness  # noqa: E402
import sources  # noqa: E402
from table import Table  # noqa: E402

# group: what it needs built
GROUPS = {"redis": ["redis"], "memcached": ["memcached", "nginx", "wrk"], "nginx": ["nginx", "wrk"],
          "libuv": ["libuv"], "curl": ["curl", "nginx"], "moved": ["redis", "nginx", "wrk"]}
# One workload of each program with both ends re-linked, and as it is.
FAST = re.compile(r"(benchmark|http and https|nginx asks|echo server|curl: https), (unwrapped|persistent|ring)$")
MISSING = "ROAM_TEST_REAL_MISSING"


def options():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("groups", nargs="*", metavar="group",
                   help="of " + ", ".join(GROUPS) + " (default: all)")
    p.add_argument("--build", required=True, help="the build directory")
    p.add_argument("--dir", default=os.environ.get("ROAM_REAL_DIR"),
                   help="where to download and build (default: $ROAM_REAL_DIR, or BUILD/real)")
    p.add_argument("--breaker", required=True)
    p.add_argument("--fast", action="store_true", help="less than a minute when all is built")
    p.add_argument("--full", action="store_true", help="all of the tests; many minutes")
    p.add_argument("--wrap-only", action="store_true",
                   help="link libroam.a by its name (a build with a sanitizer)")
    p.add_argument("--ldflag", action="append", default=[],
                   help="one more linker argument (a sanitizer's)")
    p.add_argument("--min-breaks", type=int, default=20, help="in each case with breaks")
    return harness.parse_run(p, GROUPS)


def build_all(how, top, groups):
    """Outside of the namespace, which has no network; what cannot be had, and why."""
    missing = {}
    for name in dict.fromkeys(n for g in groups for n in GROUPS[g]):
        try:
            sources.ALL[name](how, top)
        except harness.Skip as e:
            missing[name] = str(e)
    return missing


class Programs:
    """The builds, for the cases; one that is missing skips them."""

    def __init__(self, how, top, missing):
        self.how, self.top, self.missing, self.have = how, top, missing, {}

    def __getattr__(self, name):
        if name in self.missing:
            raise harness.Skip(self.missing[name])
        if name not in self.have:
            self.have[name] = sources.ALL[name](self.how, self.top)
        return self.have[name]


def main():
    args = options()
    groups = args.groups or list(GROUPS)
    if args.wrap_only and groups != ["redis"]:
        return harness.skip_all("this build is wrap only, and these programs' shared libraries use their sockets")
    build_dir = os.path.abspath(args.build)
    top = os.path.abspath(args.dir or os.path.join(build_dir, "real"))
    how = build.How(os.path.join(build_dir, "wrap", "roam.rsp"), os.path.join(build_dir, "wrap"),
                    not args.wrap_only, args.ldflag)
    if args.list:
        print("\n".join(name for name, _, _ in harness.select(args, list(GROUPS))))
        return 0
    if not os.environ.get(harness.IN_NETNS):
        os.makedirs(top, exist_ok=True)
        try:
            os.environ[MISSING] = json.dumps(build_all(how, top, groups))
        except harness.Fail as e:
            print(f"Bail out! {str(e).splitlines()[0]}")
            print(e, file=sys.stderr)
            return 1
    no_netns = harness.enter_netns()
    if no_netns:
        return harness.skip_all(no_netns)
    config = harness.Config(os.path.abspath(args.breaker), args.seed, args.keep)
    config.build, config.min_breaks = build_dir, args.min_breaks
    config.fast, config.full = args.fast, args.full
    config.programs = Programs(how, top, json.loads(os.environ.get(MISSING, "{}")))
    config.table = Table()
    print(f"# seed {args.seed}")
    cases = [c for c in harness.select(args, list(GROUPS)) if not args.fast or FAST.search(c[0])]
    status = harness.run_cases(cases, config)
    for line in config.table.lines():
        print("# " + line)
    return status


if __name__ == "__main__":
    sys.exit(main())
