#!/usr/bin/env python3
"""agent_manual.py ROAMD.8 ROAMCTL.1: the agent's manuals say what its code says, and nothing else."""
import re
import sys

import lists
import tap

AGENT = lists.TOP / "agent"


def manual(path):
    with open(path) as f:
        return f.read().replace("\\&", "").replace("\\-", "-")


def part(text, title, mark="Sh"):
    m = re.search(rf"^\.{mark} {re.escape(title)}\n(.*?)(?=^\.S[hs] |\Z)", text, re.M | re.S)
    return m[1] if m else ""


def differ(what, code, there, where):
    return [f"{where} lacks the {what} {x}" for x in code if x not in there] + \
           [f"{where} has the {what} {x}, the code does not" for x in there if x not in code] + \
           [f"{where} has the {what} {x} twice" for x in set(there) if there.count(x) > 1]


def keys():
    """section -> keys, of agent/conf.c."""
    found = {}
    for section, name in re.findall(r'^\tKEY\("([\w-]+)", "([\w-]+)"', (AGENT / "conf.c").read_text(), re.M):
        found.setdefault(section, []).append(name)
    return found


def options(source):
    """Long options, of the table in the source."""
    return re.findall(r'\{ "([\w-]+)", (?:no|required)_argument', (AGENT / source).read_text())


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    roamd, roamctl = map(manual, sys.argv[1:])
    ctl = (AGENT / "roamctl.c").read_text()

    def configuration():
        bad = []
        for section, names in keys().items():
            there = re.findall(r"^\.It Ic (\S+)", part(roamd, f"[{section}]", "Ss"), re.M)
            bad += differ("key", names, there, f"roamd.8 [{section}]")
        sections = re.findall(r"^\.Ss \[(.*)\]$", roamd, re.M)
        return bad + differ("section", list(keys()), sections, "roamd.8") + \
            ([] if sum(map(len, keys().values())) > 10 else ["KEY( in conf.c is not found any more"])

    def example():
        bad, section, there = [], None, {}
        for line in (AGENT / "roamd.conf.example").read_text().splitlines():
            if m := re.match(r"\[(.*)\]$", line):
                section = m[1]
            elif m := re.match(r"#?([\w-]+) = \S", line):
                there.setdefault(section, []).append(m[1])
        for section, names in keys().items():
            bad += differ("key", names, there.get(section, []), f"roamd.conf.example [{section}]")
        return bad + differ("section", list(keys()), list(there), "roamd.conf.example")

    def defaults():
        """What the example and the manual say of a default is the same."""
        bad = []
        for line in (AGENT / "roamd.conf.example").read_text().splitlines():
            m = re.match(r"#([\w-]+) = (\S+)$", line)
            if not m or m[1] in ("user", "host-id", "peers", "networks"):
                continue
            entry = re.search(rf"^\.It Ic {m[1]}$(.*?)(?=^\.It |^\.El)", roamd, re.M | re.S)
            if entry and not re.search(rf"(?<![\w/]){re.escape(m[2])}(?![\w/])", entry[1]):
                bad.append(f"roamd.8 does not name {m[2]}, the example's default of {m[1]}")
        return bad

    def roamd_options():
        if not (AGENT / "roamd.c").exists():
            raise tap.Skip("roamd is not there")
        there = re.findall(r"^\.It Fl -(\S+)", part(roamd, "DESCRIPTION"), re.M)
        return differ("option", options("roamd.c"), there, "roamd.8")

    def roamctl_options():
        there = re.findall(r"^\.It Fl (?:\w , Fl )?-(\S+)", part(roamctl, "OPTIONS"), re.M)
        want = options("roamctl.c")
        usage = re.search(r"^static int help\(.*?^}", ctl, re.M | re.S)[0]
        return differ("option", want, there, "roamctl.1") + \
            [f"roamctl --help lacks --{o}" for o in want if f"--{o}" not in usage]

    def commands():
        want = dict(re.findall(r'^\tCOMMAND\("(\w+)", "([^"]*)"', ctl, re.M))
        body = part(roamctl, "COMMANDS")
        bad = differ("command", list(want), re.findall(r"^\.It Ic (\w+)", body, re.M), "roamctl.1")
        for name, arg in want.items():
            word = arg.strip("[]").lower()
            line = (re.findall(rf"^\.It Ic {name}\b.*$", body, re.M) or [""])[0]
            if word and f"Ar {word}" not in line:
                bad.append(f"roamctl.1: {name} has no argument {word}")
        return bad + ([] if len(want) > 5 else ["COMMAND( in roamctl.c is not found any more"])

    def command_options():
        """The options that a command takes are named with it."""
        names = {"O_JSON": "Fl -json", "O_VERBOSE": "Fl v", "O_ONCE": "Fl -once",
                 "O_INTERVAL": "Fl -interval"}
        bad = []
        for name, flags in re.findall(r'^\tCOMMAND\("(\w+)".*?\b(?:NO|MAY|MUST)_ARG,\s*([\w |]+),', ctl,
                                      re.M | re.S):
            line = (re.findall(rf"^\.It Ic {name}\b.*$", roamctl, re.M) or [""])[0]
            for flag, text in names.items():
                if (flag in flags.split(" | ")) != (text in line):
                    bad.append(f"roamctl.1: {name} and {text.split()[-1]} do not go together as in the code")
        return bad

    def states():
        """The words that roamctl prints are explained."""
        src = (AGENT / "ctl_list.c").read_text()
        body = part(roamctl, "COLUMNS")
        words = sum((re.findall(r'"(\w+)"', a) for a in
                     re.findall(r"\*const (?:links|states)\[\] = \{([^}]*)\}", src)), [])
        return [f"roamctl.1 does not explain {w}" for w in words if f".Ql {w}" not in body] + \
            ([] if words else ["links and states in ctl_list.c are not found any more"])

    return tap.run([
        ("roamd.8 has every key", configuration),
        ("the example has every key", example),
        ("the defaults of the example are in roamd.8", defaults),
        ("roamd.8 has every option", roamd_options),
        ("roamctl.1 and --help have every option", roamctl_options),
        ("roamctl.1 has every command", commands),
        ("roamctl.1 names the options of a command", command_options),
        ("roamctl.1 explains what list says", states),
        ("mandoc finds nothing to complain about", lambda: tap.mandoc(*sys.argv[1:])),
    ])


if __name__ == "__main__":
    sys.exit(main())
