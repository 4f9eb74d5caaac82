#!/usr/bin/env python3
"""roam.h from outside: its cases (api_cases.c), and the events of breaks and freezes. TAP."""
import argparse
import functools
import os
import re
import secrets
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
sys.dont_write_bytecode = True

import harness  # noqa: E402
from harness import Fail, wait_for  # noqa: E402

EVENT = re.compile(r"^event (\w+) (.*)$", re.M)


def one(case, what):
    """A case of the C program."""
    p = case.start([case.config.cases, what])
    rc = p.wait(50)
    bad = re.findall(r"^not ok .*\n(?:# .*)?", p.out(), re.M)
    case.check(rc == 0 and not bad and re.search(r"^ok 1 ", p.out(), re.M), "; ".join(bad) or f"it ended with {rc}")


def events(p):
    return [(kind, dict(re.findall(r"(\w+)=(\S+)", rest))) for kind, rest in EVENT.findall(p.out())]


def breaks(case):
    """Each break is told once, and each new link; the statistics say the same."""
    p = case.start([case.config.cases, "--watch"])
    p.expect(r"^event persistent")
    n = case.breaks_of(case_breaker(case, p))
    wait_for(lambda: [k for k, _ in events(p)].count("mended") >= len(p.events("resumed")) // 2 >= 1 or not p.alive(),
             10, "events of what was mended")
    # Both ends write to one standard error; the client is the process that was started.
    logged = [m for m in re.findall(r"^roam\[(\d+)\]: [0-9a-f]{8} resumed ", p.err(), re.M) if int(m) == p.pid]
    wait_for(lambda: [k for k, _ in events(p)].count("mended") == len(logged) or not p.alive(), 5,
             f"{len(logged)} events")
    seen = events(p)
    mended = [v for k, v in seen if k == "mended"]
    case.check(all(int(v["stall_us"]) > 0 and v["fd"] == "0" for v in mended), f"odd events: {mended}")
    case.check(int(mended[-1]["resumes"]) == len(mended), f"{len(mended)} events, {mended[-1]['resumes']} resumes")
    order = [k for k, _ in seen if k in ("broken", "mended")]
    case.check(all(a != b for a, b in zip(order, order[1:])) and order[0] == "broken", f"the order: {order}")
    case.note(f"{n} breaks, {len(mended)} mended")


def case_breaker(case, p):
    b = case.breaker([p], interval="20:60", count=25, max_seconds=20)
    b.wait(30)
    return b


def killed(case):
    """The other end is killed: no event of mending, but that it is plain."""
    p = case.start([case.config.cases, "--watch"])
    p.expect(r"^event persistent")
    pid = [int(c) for c in open(f"/proc/{p.pid}/task/{p.pid}/children").read().split()]
    case.check(len(pid) == 1, f"children: {pid}")
    os.kill(pid[0], 9)
    p.wait(10)
    ended = [v for k, v in events(p) if k == "plain"]
    case.check(not [k for k, _ in events(p) if k == "mended"], "mended?")
    # It may end before it reads the event: what recv says is the kernel's word.
    case.check(len(ended) <= 1, f"{ended}")
    case.check(p.events("ended"), "nobody says that it has ended")


def freeze(case):
    key = os.path.join(case.dir, "key")
    with open(os.open(key, os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
        f.write(secrets.token_hex(32) + "\n")
    agent = case.start([case.config.roamd, "--set", f"agent.directory={case.roam_dir}", "--set", f"agent.key={key}",
                        "--set", "agent.log=info"])
    agent.expect(r"is here: port")
    p = case.start([case.config.cases, "--watch"])
    p.expect(r"^event persistent")
    for command in ("freeze", "thaw"):
        ctl = case.start([case.config.roamctl, "--dir", case.roam_dir, command, str(p.pid)])
        ctl.succeed(15)
    p.expect(r"^event mended", 10)
    kinds = [k for k, _ in events(p)]
    case.check([k for k in kinds if k != "persistent"] == ["broken", "frozen", "thawed", "mended"], f"{kinds}")
    frozen = next(v for k, v in events(p) if k == "frozen")
    thawed = next(v for k, v in events(p) if k == "thawed")
    case.check(frozen["fd"] == "-1" and frozen["value"] == "1", f"{frozen}")
    case.check(thawed["fd"] == "-1" and thawed["value"] == "0", f"{thawed}")


def frames(case, link):
    """Once more when a busy host has been what was late."""
    try:
        frames_once(case, link)
    except Fail as e:
        case.note(f"again, since {e}")
        frames_once(case, link)


def frames_once(case, link):
    """The example that adapts: the same stream with and without roam, over a link that is slow for a while."""
    said = {}
    for what in ("frames-roam", "frames"):
        exe = os.path.join(case.config.examples, what)
        env = case.environ(ROAM_LINK=link)
        recv = case.start([exe, "recv", "-s", "1000:3500:40000"], env=env)
        send = case.start([exe, "send", recv.expect(r"^listening on \S+:(\d+)$")[1], "4"], env=env)
        send.succeed(30)
        recv.succeed(30)
        counts = [{k: int(v) for k, v in re.findall(r"([IPB])=(\d+)", part)}
                  for part in (*send.out().split("left out"), recv.out())]
        said[what] = (*counts, int(re.search(r"latest (\d+) ms", recv.out())[1]))
        if what == "frames-roam":
            case.check(send.connections("upgraded"), "not persistent")
            case.check(link == "tcp" or re.search(r"^the link is a ring", send.err(), re.M), "no event of the ring")
    sent, out, got, late = said["frames-roam"]
    case.check(sent == got and sent["I"] == 20, f"sent {sent}, got {got}")
    case.check(out["B"] > 20 and out["P"] > 3, f"left out {out}")
    plain_sent, plain_out, plain_got, plain_late = said["frames"]
    case.check(plain_sent == plain_got and not any(plain_out.values()), f"without roam: {plain_sent} {plain_out}")
    case.check(late < 0.7 * plain_late, f"{late} ms late, without roam {plain_late} ms")
    case.note(f"left out P={out['P']} B={out['B']}; at most {late} ms late, without roam {plain_late} ms")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("groups", nargs="*")
    for name in ("cases", "breaker", "roamd", "roamctl", "examples"):
        p.add_argument("--" + name, required=True)
    args = harness.parse_run(p, [])
    with open(os.path.join(HERE, "api_cases.c")) as f:
        names = re.findall(r'^\t\{ "([^"]+)", "\w*", \w+ \},$', f.read(), re.M)
    cases = [(n, 60, functools.partial(one, what=n)) for n in names]
    cases += [("25 breaks, told as events", 60, breaks), ("the other end is killed", 30, killed),
              ("frozen and thawed", 60, freeze)]
    cases += [(f"frames are left out when the link is slow: {link}", 60, functools.partial(frames, link=link))
              for link in ("tcp", "auto")]
    cases = [c for c in cases if args.only in c[0]]
    if args.list:
        print("\n".join(name for name, _, _ in cases))
        return 0
    no_netns = harness.enter_netns()
    config = harness.Config(args.breaker, args.seed, args.keep, no_netns)
    config.cases, config.roamd, config.roamctl = args.cases, args.roamd, args.roamctl
    config.examples = args.examples
    print(f"# seed {args.seed}" + (f"; no namespace: {no_netns}" if no_netns else ""))
    return harness.run_cases(cases, config)


if __name__ == "__main__":
    sys.exit(main())
