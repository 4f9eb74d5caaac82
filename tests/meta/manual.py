#!/usr/bin/env python3
"""manual.py ROAM.7: the built manual says what the lists and the code say."""
import re
import sys

import lists
import tap


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    with open(sys.argv[1]) as f:
        manual = f.read()
    # mdoc escapes: \& and \-; the words are what counts
    plain = manual.replace("\\&", "").replace("\\-", "-").replace("\\(em", "-")
    readme = (lists.TOP / "README.md").read_text()

    def part(title):
        m = re.search(rf"^\.Sh {title}\n(.*?)(?=^\.Sh |\Z)", plain, re.M | re.S)
        return m[1] if m else ""

    def calls():
        there = re.findall(r"^\.Fn (\S+)", part("INTERCEPTED CALLS"), re.M)
        want = [n for _, _, n in lists.calls()]
        return [f"the manual lacks {n}" for n in want if n not in there] + \
               [f"the manual lists {n}, wrap.def does not" for n in there if n not in want]

    def reasons():
        body = part("REASONS")
        there = re.findall(r"^\.It Li (\S+)", body, re.M)
        bad = [f"the manual lacks the reason {w}" for _, _, w, _ in lists.reasons()
               if w not in there]
        bad += [f"the manual lists the reason {w}, reason.def does not" for w in there
                if w not in [r[2] for r in lists.reasons()]]
        flat = " ".join(body.split())
        return bad + [f"the manual explains {w} differently" for _, _, w, t in lists.reasons()
                      if t not in flat]

    def settings():
        body = part("ENVIRONMENT")
        there = re.findall(r"^\.It Ev (\w+)", body, re.M)
        want = lists.settings()
        bad = []
        for var, words in want.items():
            if var.startswith("XDG_"):
                continue
            if var not in there:
                bad.append(f"the manual lacks the variable {var}")
                continue
            entry = re.search(rf"^\.It Ev {var}\b(.*?)(?=^\.It Ev |\Z)", body, re.M | re.S)[1]
            bad += [f"the manual does not name {var}={w}" for w in words or []
                    if not re.search(rf"^\.(Li|It Li|Ql) {re.escape(w)}\b", entry, re.M)]
            if var not in readme:
                bad.append(f"README.md lacks the variable {var}")
        return bad + [f"the manual has {v}, conf.c does not" for v in there if v not in want]

    return tap.run([
        ("the manual lists the intercepted calls", calls),
        ("the manual explains every reason", reasons),
        ("the manual and the README name the settings", settings),
        ("mandoc finds nothing to complain about", lambda: tap.mandoc(sys.argv[1])),
    ])


if __name__ == "__main__":
    sys.exit(main())
