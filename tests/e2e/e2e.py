#!/usr/bin/env python3
"""End-to-end tests: the example programs, plain and re-linked, as processes.

Everything runs in a private network namespace and a private ROAM_DIR. The
output is TAP. See --help; the cases are in the modules named in GROUPS.
"""
import argparse
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "support")]
sys.dont_write_bytecode = True

import harness  # noqa: E402

GROUPS = ["modes", "stress", "plain", "faults"]


def options():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("groups", nargs="*", metavar="group",
                   help="of " + ", ".join(GROUPS) + " (default: all)")
    p.add_argument("--bin-dir", required=True, help="where the examples are")
    p.add_argument("--breaker", required=True)
    p.add_argument("--breaks", type=int, default=500,
                   help="real breaks in the stress case (%(default)s)")
    return harness.parse_run(p, GROUPS)


def main():
    args = options()
    cases = harness.select(args, GROUPS)
    if args.list:
        print("\n".join(name for name, _, _ in cases))
        return 0
    # Ports, rules and broken connections must be our own, also when not root.
    no_netns = harness.enter_netns()
    config = harness.Config(args.breaker, args.seed, args.keep, no_netns)
    config.bin_dir = args.bin_dir
    print(f"# seed {args.seed}" + (f"; no namespace: {no_netns}" if no_netns else ""))
    return harness.run_cases(cases, config)


if __name__ == "__main__":
    sys.exit(main())
