#!/usr/bin/env python3
"""manual.py IN OUT: puts the tables made of wrap.def and reason.def into the manual."""
import pathlib
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(TOP / "tests/meta"))

import lists  # noqa: E402

FAMILIES = {
    "SOCK": "Sockets",
    "IO": "Data",
    "FORTIFY": "Fortified names of the others (_FORTIFY_SOURCE)",
    "READY": "Readiness",
    "FD": "Descriptors",
    "PROC": "Processes",
    "RAW": "The raw system call",
}


def calls():
    out = []
    rows = lists.calls()
    unknown = {f for _, f, _ in rows} - set(FAMILIES)
    if unknown:
        raise SystemExit(f"manual.py: name the families {', '.join(sorted(unknown))}")
    for family, title in FAMILIES.items():
        names = [n for _, f, n in rows if f == family]
        out += [f".It {title}"]
        for i, n in enumerate(names):
            out.append(f".Fn {n}" + (" ," if i + 1 < len(names) else ""))
    return "\n".join(out)


def reasons():
    out = []
    for _, nr, word, text in lists.reasons():
        # one sentence a line, and no line may begin with a control character
        out += [f".It Li {word} Pq {nr}", text]
    return "\n".join(out)


def main():
    source, target = map(pathlib.Path, sys.argv[1:])
    text = source.read_text()
    for mark, table in (("@CALLS@", calls()), ("@REASONS@", reasons())):
        if text.count(mark + "\n") != 1:
            raise SystemExit(f"manual.py: {source} must hold {mark} once")
        text = text.replace(mark, table)
    target.write_text(text)


if __name__ == "__main__":
    main()
