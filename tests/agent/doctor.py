#!/usr/bin/env python3
"""roamctl doctor: what it finds on hosts that are well, or not, and in programs. TAP."""
import argparse
import json
import os
import random
import secrets
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
sys.dont_write_bytecode = True

import harness  # noqa: E402
from harness import Skip, wait_for  # noqa: E402


def doctor(case, *args, directory=None):
    """(exit status, findings); the table must say the same as JSON."""
    cmd = [case.config.roamctl, "--dir", directory or case.roam_dir, "doctor"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("ROAM")}
    done = subprocess.run([*cmd, "--json", *map(str, args)], capture_output=True, text=True, env=env, timeout=30)
    found = json.loads(done.stdout)["findings"]
    wrong = [f for f in found if f["verdict"] == "wrong"]
    case.check(done.returncode == (1 if wrong else 0), f"exit status {done.returncode}: {found}")
    case.check(all(f["remedy"] for f in wrong), f"no remedy: {wrong}")
    plain = subprocess.run([*cmd, *map(str, args)], capture_output=True, text=True, env=env, timeout=30)
    case.check(all(f["text"] in plain.stdout for f in found if f["check"] != "agent"), plain.stdout)
    case.check(plain.returncode == done.returncode, "the table has another exit status")
    return found


def one(found, check):
    return next((f["verdict"], f["text"]) for f in found if f["check"] == check)


def start_agent(case, *sets):
    key = os.path.join(case.dir, "key")
    with open(os.open(key, os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
        f.write(secrets.token_hex(32) + "\n")
    argv = [case.config.roamd]
    for s in (f"agent.directory={case.roam_dir}", f"agent.key={key}", "agent.log=info", *sets):
        argv += ["--set", s]
    case.start(argv).expect(r"is here: port")


def nothing(case):
    found = doctor(case)
    case.check(one(found, "agent")[0] == "wrong" and one(found, "port")[0] == "wrong", f"{found}")
    case.check(one(found, "directory")[0] == "ok", f"{found}")
    os.chmod(case.roam_dir, 0o777)
    case.check(one(doctor(case), "directory")[0] == "wrong", "a directory for all is fine?")
    case.check(one(doctor(case, directory=case.dir + "/none"), "directory")[0] == "note", "no directory")


def well(case):
    if case.config.no_netns:
        raise Skip(case.config.no_netns)
    start_agent(case)
    found = doctor(case)
    case.check(not [f for f in found if f["verdict"] == "wrong"], f"{found}")
    case.check(one(found, "agent")[0] == "ok" and one(found, "port")[0] == "ok", f"{found}")
    case.check(one(found, "peers")[0] == "note", f"{found}")


def lost_peer(case):
    if case.config.no_netns:
        raise Skip(case.config.no_netns)
    start_agent(case, "discovery.peers=127.0.0.9")
    wait_for(lambda: one(doctor(case), "peers")[0] == "wrong", 5, "the peer that is not there to be told")
    case.check("127.0.0.9" in one(doctor(case), "peers")[1], "which one?")


def programs(case):
    d = case.config.examples
    whole, plain = os.path.join(d, "frames-roam"), os.path.join(d, "frames")
    sanitized = "__asan_init" in open(whole, errors="replace").read() or "__tsan_init" in open(whole, errors="replace").read()
    good = "own calls only" if sanitized else "whole process"
    case.check(good in one(doctor(case, whole), "program")[1], f"{doctor(case, whole)}")
    case.check(one(doctor(case, plain), "program")[0] == "wrong", "a plain program")
    case.check("no roam" in one(doctor(case, case.config.roamctl), "program")[1], "roamctl itself")
    if shutil.which("strip"):
        stripped = os.path.join(case.dir, "stripped")
        subprocess.run(["strip", "-o", stripped, whole], check=True)
        case.check(good in one(doctor(case, stripped), "program")[1], "stripped")
    for what in (os.path.abspath(__file__), "/nowhere", "99999999"):
        case.check(one(doctor(case, what), "program")[0] == "wrong", what)


def process(case):
    p = case.start([os.path.join(case.config.examples, "frames-roam"), "recv"], env=case.environ(ROAM="off"))
    p.expect(r"^listening")
    found = [f["text"] for f in doctor(case, p.pid) if f["check"] == "program"]
    case.check(any("ROAM=off" in t for t in found), f"{found}")
    case.check(not any("ROAM_DIR" in t for t in found), f"{found}")
    found = [f["text"] for f in doctor(case, p.pid, directory=case.dir) if f["check"] == "program"]
    case.check(any("ROAM_DIR" in t for t in found), f"{found}")


def damaged(case):
    """Files that are no programs, but look like some: an answer, never a crash."""
    rnd = random.Random(case.seed)
    with open(os.path.join(case.config.examples, "frames-roam"), "rb") as f:
        image = f.read()
    path = os.path.join(case.dir, "damaged")
    words = {}
    for i in range(150):
        b = bytearray(image[:rnd.choice([40, 64, 200, 5000, len(image) // 2, len(image)])])
        for _ in range(rnd.randint(0, 12)):
            # the headers, at the beginning and, of the sections, at the end
            at = rnd.choice([rnd.randrange(len(b)), rnd.randrange(min(64, len(b))), len(b) - 1 - rnd.randrange(min(2500, len(b)))])
            b[at] = rnd.choice([0, 255, rnd.randrange(256)])
        with open(path, "wb") as f:
            f.write(b)
        done = subprocess.run([case.config.roamctl, "--dir", case.roam_dir, "doctor", path], capture_output=True,
                              text=True, timeout=10)
        case.check(done.returncode == 1 and "Sanitizer" not in done.stderr, f"round {i}: {done.returncode} {done.stderr[-300:]}")
        words[done.stdout.count("has no roam") + 2 * done.stdout.count("re-linked")] = True
    case.check(len(words) > 1, "all damage has the same effect")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("groups", nargs="*")
    for name in ("roamd", "roamctl", "examples"):
        p.add_argument("--" + name, required=True)
    args = harness.parse_run(p, [])
    cases = [("a host without an agent", 20, nothing), ("a host that is well", 20, well),
             ("a peer that is not there", 20, lost_peer), ("programs", 30, programs), ("a process", 20, process),
             ("damaged programs", 60, damaged)]
    cases = [c for c in cases if args.only in c[0]]
    if args.list:
        print("\n".join(name for name, _, _ in cases))
        return 0
    no_netns = harness.enter_netns()
    config = harness.Config("", args.seed, args.keep, no_netns)
    config.roamd, config.roamctl, config.examples = args.roamd, args.roamctl, args.examples
    print(f"# seed {args.seed}")
    return harness.run_cases(cases, config)


if __name__ == "__main__":
    sys.exit(main())
