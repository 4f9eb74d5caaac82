#!/usr/bin/env python3
"""api_manual.py ROAM.3: the manual of roam.h says what the header says, and nothing else."""
import re
import sys

import lists
import tap


def uncomment(text):
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.S)


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    with open(sys.argv[1]) as f:
        page = f.read().replace("\\-", "-")
    header = (lists.TOP / "include/roam.h").read_text()
    code = uncomment(header)

    def part(title, mark="Sh"):
        m = re.search(rf"^\.{mark} {title}\n(.*?)(?=^\.S[hs] |\Z)", page, re.M | re.S)
        return m[1] if m else ""

    def differ(what, code_has, page_has):
        return [f"roam.3 lacks the {what} {x}" for x in code_has if x not in page_has] + \
               [f"roam.3 has the {what} {x}, roam.h does not" for x in page_has if x not in code_has] + \
               ([] if code_has else [f"no {what} is found in roam.h any more"])

    functions = re.findall(r"^(?:ROAM_API|static inline) (.*?)\b(roam_\w+)\(([^)]*)\)", code, re.M)

    def prototypes():
        want = [f"{kind.strip()} {name}({', '.join(a.strip() for a in args.split(','))})"
                for kind, name, args in functions]
        there = []
        for kind, rest in re.findall(r'^\.Ft (.*)\n\.Fn (.*)$', part("SYNOPSIS"), re.M):
            name, args = rest.split(" ", 1)
            there.append(f'{kind.strip(chr(34)).strip()} {name}({", ".join(re.findall(chr(34) + "([^" + chr(34) + "]*)" + chr(34), args) or [args])})')
        return differ("prototype", want, there)

    def names():
        want = [n for _, n, _ in functions]
        there = re.findall(r"^\.Nm (\w+)", part("NAME"), re.M)
        body = page.split(".Sh DESCRIPTION")[1]
        return differ("name", want, there) + \
            [f"roam.3 does not describe {n}" for n in want if f".Fn {n}" not in body]

    def constants():
        want = [n for block in re.findall(r"^enum \w+ \{(.*?)^\}", code, re.M | re.S)
                for n in re.findall(r"\b(ROAM_\w+) =", block)]
        there = re.findall(r"\bROAM_(?:LINK|POLICY|EVENT)_\w+", page)
        return differ("constant", want, sorted(set(there)))

    def members(struct, title):
        block = re.search(rf"^struct {struct} \{{(.*?)^\}}", code, re.M | re.S)
        want = [n for line in re.findall(r"^\t\w+ ([^;]+);", block[1], re.M)
                for n in re.findall(r"(\w+)(?:\[\w+\])?(?:,|$)", line.strip())] if block else []
        there = [n for line in re.findall(r"^\.It Va (.*)$", part(title, "Ss"), re.M)
                 for n in line.split(" , ")]
        return differ(f"member of {struct}", want, there)

    def errors():
        """Every errno that the header or the code of the functions names is explained, and no other."""
        src = "".join((lists.TOP / f"lib/{f}.c").read_text() for f in ("api", "event"))
        comments = " ".join(re.findall(r"/\*.*?\*/", header, re.S))
        want = set(re.findall(r"\b(E[A-Z]{3,})\b", comments)) - {"ERRORS"}
        want = {e for e in want if re.search(rf"\b{e}\b", src + "EBUSY EINVAL")}
        there = set(re.findall(r"^\.It Bq Er (\w+)", part("ERRORS"), re.M))
        made = set(re.findall(r"(?:errno = |return |leave\(v, (?:st \? 0 : )?|\? |: )(E[A-Z]{3,})\b", src)) - {"EDEADLK"}
        return differ("error", sorted(want), sorted(there)) + \
            [f"roam.3 does not explain {e}, which the functions give" for e in sorted(made - there)]

    def settings():
        named = set(re.findall(r"^\.Ql (ROAM\w*) ?,?$", part("Settings", "Ss"), re.M))
        want = {v for v in lists.settings() if not v.startswith("XDG_")}
        src = (lists.TOP / "lib/conf.c").read_text()
        asked = set(re.findall(r'\.name = "(\w+)"', src))
        comment = set(re.findall(r"\bROAM(?:_[A-Z]+)?\b", re.search(r"default for a setting.*?\*/", header, re.S)[0]))
        return [f"roam_set does not take {v}" for v in sorted(want - asked)] + \
            [f"roam_set takes {v}, which is no setting" for v in sorted(asked - want)] + \
            [f"roam.3 lacks the setting {v}" for v in sorted(want - named)] + \
            [f"roam.h lacks the setting {v}" for v in sorted(want - comment)]

    return tap.run([
        ("roam.3 has every prototype", prototypes),
        ("roam.3 names and describes every function", names),
        ("roam.3 explains every constant", constants),
        ("roam.3 explains the statistics", lambda: members("roam_stats", "One connection")),
        ("roam.3 explains the events", lambda: members("roam_event", "Events")),
        ("roam.3 explains every error", errors),
        ("roam_set takes every setting", settings),
        ("mandoc finds nothing to complain about", lambda: tap.mandoc(sys.argv[1])),
    ])


if __name__ == "__main__":
    sys.exit(main())
