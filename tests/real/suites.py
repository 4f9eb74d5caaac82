"""A program's own tests: run in each way, their results compared one by one."""
import glob
import os
import re

from harness import ROAM_LINE

BAD = ("err", "exception", "failed", "not ok")


class Log:
    """What the library wrote in many processes: as Proc.events, of files."""

    def __init__(self, text):
        self.lines = [(m[2], m[3], m[4]) for m in ROAM_LINE.finditer(text)]

    def connections(self, event):
        return {cid for cid, what, _ in self.lines if what == event}

    def on_ring(self):
        return {cid for cid, what, rest in self.lines
                if what in ("moved", "resumed") and "link=ring" in rest}


def logs(top, pattern):
    """All that is in files of this name below a directory."""
    text = []
    for path in glob.glob(os.path.join(top, "**", pattern), recursive=True):
        if os.path.isfile(path):
            with open(path, errors="replace") as f:
                text.append(f.read())
    return Log("\n".join(text))


def counts(found):
    words = list(found.values())
    return " ".join(f"{words.count(w)} {w}" for w in dict.fromkeys(sorted(words, reverse=True)))


def verdict(case, row, way, found, log, known=()):
    """found: test -> word. The first way that runs is the reference of the others.

    log: None where another case has to show that connections are upgraded.
    known: tests whose difference the manual explains."""
    seen = case.config.__dict__.setdefault("own_tests", {})
    reference = seen.setdefault(row, found)
    cell = counts(found)
    if log:
        got = len(log.on_ring() if way.link == "ring" else log.connections("upgraded"))
        case.check(bool(got) == way.both(), f"{got} connections were {way.column}")
        if way.both():
            cell += f" ({got} {'on rings' if way.link == 'ring' else 'upgraded'})"
    case.config.table.put(row, way.column, cell)
    case.note(cell)
    differ = [f"{t}: {reference.get(t, 'not run')} unwrapped, {found.get(t, 'not run')} {way.column}"
              for t in sorted(set(reference) | set(found))
              if reference.get(t) != found.get(t) and not any(re.search(k, t) for k in known)]
    case.check(not differ, f"{len(differ)} tests differ:\n" + "\n".join(differ[:40]))
