#!/usr/bin/env python3
"""Starts the examples, breaks their connections, says what happened.

Everything runs in a network namespace of its own, so nothing else is touched.
Exit status: 0 all is as it should be, 1 it is not, 77 not possible here.
"""
import argparse
import os
import pathlib
import re
import statistics
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(TOP / "tests/e2e"), str(TOP / "tests/support")]

import harness  # noqa: E402
import programs  # noqa: E402


def human(n):
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n < 1024 or unit == "GiB":
            return f"{n:.0f} {unit}" if unit == "bytes" else f"{n:.1f} {unit}"
        n /= 1024
    return ""


def ms(us):
    return f"{us / 1000:.1f} ms"


def resumes(*procs):
    """(resumes seen by the end that saw most, bytes sent again, stalls in us)."""
    counts, again, stalls = [], 0, []
    for p in procs:
        lines = [dict(re.findall(r"(\w+)=(\d+)", rest)) for _, rest in p.events("resumed")]
        counts.append(len(lines))
        again += sum(int(x["resent"]) for x in lines)
        stalls += [int(x["stall_us"]) for x in lines]
    return max(counts), again, stalls


def table(rows):
    width = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    for r in rows:
        print("    " + "  ".join(c.ljust(w) for c, w in zip(r, width)).rstrip())


def say(text=""):
    print(text, flush=True)


def complaint(proc):
    """The program's own first line on stderr, without the library's."""
    lines = [x for x in proc.err().splitlines() if not x.startswith("roam[")]
    return lines[0] if lines else "nothing on stderr"


def persistent(case):
    """Re-linked programs under many breaks; the table's columns."""
    echo = programs.echo_server(case, mode="epoll")
    bulk = programs.bulk_recv(case, mode="poll")
    say("  echo_server-roam and echo_client-roam: 4 connections, 4000 messages each")
    say("  bulk_send-roam to bulk_recv-roam:      128 MiB, at the same time")
    talker = programs.echo_client(case, echo, mode="epoll", messages=4000, connections=4)
    sender = programs.bulk_send(case, bulk, mode="blocking", size="128M", rate=32)
    programs.wait_upgraded(talker, connections=4)
    programs.wait_upgraded(echo.proc, connections=4)
    programs.wait_upgraded(sender, bulk.proc)
    breakers = [case.breaker([echo.proc, talker], interval="80:200", until=talker, count=20),
                case.breaker([bulk.proc, sender], interval="150:350", until=sender, count=10)]
    say("  breaking them ...")
    good = True
    verdicts = []
    for what, server, client in (("echo", echo, talker), ("bulk", bulk, sender)):
        rc = client.wait(60)
        server.proc.stop()
        if rc:
            verdicts.append(f"FAILED: {complaint(client)}")
            good = False
        elif what == "echo":
            verdicts.append("every byte came back right")
        else:
            sent = programs.digests(client, "sent")
            received = programs.digests(server.proc, "received")
            same = sent == received and len(sent) == 1
            good = good and same
            verdicts.append("the digests are equal" if same else
                            f"FAILED: sent {sent}, received {received}")
    breaks = [case.breaks_of(b) for b in breakers]
    rows = [["", "echo", "bulk"], ["breaks made"] + [str(b) for b in breaks]]
    seen = [resumes(echo.proc, talker), resumes(bulk.proc, sender)]
    rows.append(["resumed"] + [str(s[0]) for s in seen])
    rows.append(["bytes sent again"] + [human(s[1]) for s in seen])
    rows.append(["median stall"] + [ms(statistics.median(s[2])) if s[2] else "-" for s in seen])
    rows.append(["longest stall"] + [ms(max(s[2])) if s[2] else "-" for s in seen])
    rows.append(["result"] + verdicts)
    say()
    table(rows)
    say()
    for what, proc in (("sent", sender), ("received", bulk.proc)):
        for n, digest in programs.digests(proc, what):
            say(f"    bulk {what:<9} {n} bytes, digest {digest}")
    if min(breaks) == 0 or min(s[0] for s in seen) == 0:
        say("    FAILED: nothing was broken, or nothing resumed")
        good = False
    return good


def plain(case):
    """The same source, linked without roam, under one break."""
    server = programs.echo_server(case, mode="epoll", roam=False)
    client = programs.echo_client(case, server, mode="epoll", messages=4000, roam=False)
    # the server's socket dies: the client is told by a reset
    case.breaker([server.proc, client], interval="100:100", count=1, side="server").succeed(20)
    rc = client.wait(20)
    say(f"    exit status {rc}: {complaint(client)}")
    return rc != 0 and "errno 104" in client.err()


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--build", default=str(TOP / "build"))
    p.add_argument("--seed", type=int, default=1, help="of the breaker's choices")
    args = p.parse_args()
    build = os.path.abspath(args.build)
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    reason = harness.enter_netns()
    if not reason:
        config = harness.Config(os.path.join(build, "tests/support/breaker"), args.seed)
        config.bin_dir = os.path.join(build, "examples")
        probe = harness.Case(config)
        try:
            probe.need("kill")
        except harness.Skip as e:
            reason = str(e)
        finally:
            probe.close()
    if reason:
        say(f"Skipped: connections cannot be broken here ({reason}). Run this as root.")
        return 77
    good = True
    for title, part in (("1. Re-linked with roam, under many breaks", persistent),
                        ("2. The same echo programs, not re-linked, under one break", plain)):
        say(f"\n{title}\n")
        case = harness.Case(config)
        try:
            good = part(case) and good
        except harness.Skip as e:
            say(f"    skipped: {e}")
        except harness.Fail as e:
            say(f"    FAILED: {e}")
            good = False
        finally:
            case.close()
    say("\nAs it should be: the re-linked programs noticed nothing, the others lost "
        "their connection." if good else "\nFAILED: see above.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
