#!/usr/bin/env python3
"""Tests between hosts: network namespaces, agents, connections that move.

Nothing of it touches the host's own network. The output is TAP. See --help;
the cases are in the modules named in GROUPS. "scale" takes minutes and runs
only when it is named.
"""
import argparse
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "support"), os.path.join(HERE, "..", "meta")]
sys.dont_write_bytecode = True

import harness  # noqa: E402

GROUPS = ["lab", "basic", "breaks", "moves", "near", "agents", "park", "codec", "rates", "scale"]
DEFAULT = [g for g in GROUPS if g != "scale"]


def options():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("groups", nargs="*", metavar="group",
                   help="of " + ", ".join(GROUPS) + " (default: all but scale)")
    p.add_argument("--build", required=True, help="the build directory")
    p.add_argument("--count", type=int, default=1000,
                   help="moves and breaks in the scale group (%(default)s)")
    p.add_argument("--idle", type=int, default=10000,
                   help="idle connections in the scale group (%(default)s)")
    return harness.parse_run(p, GROUPS)


def main():
    args = options()
    cases = harness.select(args, DEFAULT)
    if args.list:
        print("\n".join(name for name, _, _ in cases))
        return 0
    no_netns = harness.enter_netns()
    if no_netns:
        return harness.skip_all(no_netns)
    config = harness.Config(None, args.seed, args.keep)
    config.build = os.path.abspath(args.build)
    print(f"# seed {args.seed}")
    return harness.run_cases(cases, config)


if __name__ == "__main__":
    sys.exit(main())
