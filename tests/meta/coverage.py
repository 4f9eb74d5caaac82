#!/usr/bin/env python3
"""docs/coverage.md says what is true: its programs are those of tests/real."""
import re
import sys

import lists
import tap

REAL = lists.TOP / "tests" / "real"


def main():
    page = (lists.TOP / "docs" / "coverage.md").read_text()
    table = re.search(r"^## The programs\n(.*?)^## ", page, re.M | re.S)[1]
    there = re.findall(r"^\| ([a-z]\w*) \|", table, re.M)[1:]

    def programs():
        built = re.findall(r"^def (\w+)\(how, top\):", (REAL / "sources.py").read_text(), re.M)
        return [f"the page lacks {b}" for b in built if b not in there] + \
               [f"the page names {p}, tests/real does not build it" for p in there if p not in built]

    def groups():
        text = (REAL / "real.py").read_text()
        named = re.findall(r'"(\w+)": \[', re.search(r"^GROUPS = \{(.*?)\}", text, re.M | re.S)[1])
        files = {p.stem[len("cases_"):] for p in REAL.glob("cases_*.py")}
        meson = re.findall(r"'(\w+)': \d+", (REAL / "meson.build").read_text())
        return [f"real.py has no group {f}" for f in files - set(named)] + \
               [f"no cases for the group {n}" for n in set(named) - files] + \
               [f"meson.build lacks the group {n}" for n in set(named) - set(meson)]

    def reasons():
        words = {r[2] for r in lists.reasons()}
        # `word`: after "reason", and after "or"
        said = [w for pair in re.findall(r"reason `([\w-]+)`(?:, or `([\w-]+)`)?", page) for w in pair if w]
        return [f"there is no reason {w}" for w in said if w not in words] or \
               ([] if said else ["the page names no reason"])

    def left_out():
        """What the page says is not compared is not, and nothing else is left out by name."""
        known = re.findall(r"known=\(\"(.*?)\"", "".join(p.read_text() for p in REAL.glob("cases_*.py")))
        return [f"a difference that the page does not explain: {k}" for k in known if k not in page]

    return tap.run([("the programs", programs), ("the groups", groups), ("the reasons", reasons),
                    ("differences", left_out)])


if __name__ == "__main__":
    sys.exit(main())
