"""What the demos between hosts share: how a play on namespaces begins and ends."""
import argparse
import os
import signal

import harness


def say(text=""):
    print(text, flush=True)


def on_stage(title, about, build, play):
    """Runs play(case); its exit status: 0, 1 it failed, 77 not possible here."""
    p = argparse.ArgumentParser(description=about)
    p.add_argument("--build", default=str(build))
    args = p.parse_args()
    signal.signal(signal.SIGTERM, harness._terminate)
    reason = harness.enter_netns()
    if reason:
        say(f"Skipped: no hosts can be made here ({reason}). Run this as root.")
        return 77
    config = harness.Config(None, 1)
    config.build = os.path.abspath(args.build)
    case = harness.Case(config)
    say(f"\n{title}\n")
    try:
        play(case)
    except harness.Skip as e:
        say(f"Skipped: {e}")
        return 77
    except harness.Fail as e:
        say(f"\nFAILED: {e}")
        for proc in case.procs:
            say("\n".join(proc.describe()))
        return 1
    finally:
        case.close()
    return 0
