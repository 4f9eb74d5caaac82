#!/usr/bin/env python3
"""trouble.py: docs/troubleshooting.md has every reason, and names only what there is."""
import re
import sys

import lists
import tap


def main():
    text = (lists.TOP / "docs/troubleshooting.md").read_text()
    entries = re.findall(r"^## `([\w-]+)` \((\d+)\)\n\n(.*?)(?=^## |\Z)", text, re.M | re.S)

    def reasons():
        there = [(w, int(nr)) for w, nr, _ in entries]
        want = [(w, nr) for _, nr, w, _ in lists.reasons()]
        return [f"troubleshooting.md lacks {w} ({nr})" for w, nr in want if (w, nr) not in there] + \
            [f"troubleshooting.md has {w} ({nr}), reason.def does not" for w, nr in there if (w, nr) not in want] + \
            ([] if there == sorted(there, key=lambda e: e[1]) else ["the reasons are not in order"])

    def remedies():
        bad = []
        for word, _, body in entries:
            m = re.fullmatch(r"(\S.*?)\n\n\*\*Do:\*\* (\S.*?)\n+", body, re.S)
            if not m or len(m[1]) < 15:
                bad.append(f"{word}: says not what it is, and what to do")
        return bad

    def exists():
        ctl = (lists.TOP / "agent/roamctl.c").read_text()
        commands = re.findall(r'^\tCOMMAND\("(\w+)"', ctl, re.M)
        keys = {f"{s}.{k}" for s, k in
                re.findall(r'^\tKEY\("([\w-]+)", "([\w-]+)"', (lists.TOP / "agent/conf.c").read_text(), re.M)}
        bad = [f"roamctl {c}: no such command" for c in re.findall(r"`roamctl (\w+)", text) if c not in commands]
        bad += [f"{v}: no such setting" for v in re.findall(r"\bROAM(?:_[A-Z]+)?\b", text)
                if v not in lists.settings()]
        bad += [f"{k}: no such key" for k in re.findall(r"`((?:agent|discovery|limits)\.[\w-]+)`", text)
                if k not in keys]
        return bad + ([] if commands and keys else ["the commands or keys are not found any more"])

    return tap.run([("every reason has an entry", reasons), ("every entry says what to do", remedies),
                    ("what it names exists", exists)])


if __name__ == "__main__":
    sys.exit(main())
