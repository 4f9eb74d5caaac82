#!/usr/bin/env python3
"""Tests of roamd: agents in network namespaces of their own, fake processes. TAP; see --help."""
import argparse
import importlib
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "support")]
sys.dont_write_bytecode = True

import harness  # noqa: E402

GROUPS = ["core", "net", "hostile", "parked", "probe"]


def with_rig(fn):
    """The namespaces go, whatever happens."""
    def run(case):
        case.rig = None
        try:
            fn(case)
        finally:
            if case.rig:
                case.rig.close()
    return run


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("groups", nargs="*", metavar="group", help="of " + ", ".join(GROUPS))
    p.add_argument("--roamd", required=True)
    p.add_argument("--only", default="", help="cases whose name contains this")
    p.add_argument("--seed", type=int, default=None)
    p.add_argument("--keep", action="store_true", help="keep the output files")
    args = p.parse_args()
    if os.geteuid() != 0:
        return harness.skip_all("needs root for network namespaces")
    cases = [(name, limit, with_rig(fn)) for g in args.groups or GROUPS
             for name, limit, fn in importlib.import_module("cases_" + g).CASES if args.only in name]
    seed = int.from_bytes(os.urandom(4), "big") if args.seed is None else args.seed
    config = harness.Config(None, seed, args.keep)
    config.roamd = os.path.abspath(args.roamd)
    return harness.run_cases(cases, config)


if __name__ == "__main__":
    sys.exit(main())
