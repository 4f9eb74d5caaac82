#!/usr/bin/env python3
"""frozen.py: numbers and layouts that go on the wire never change.

wire.frozen and reason.frozen are what was published. A new message or reason is
added to them by hand, in the same change; an old line is never edited: a change
of a layout is a new WIRE_VERSION (docs/protocol.md).
"""
import pathlib
import sys

import lists
import tap

HERE = pathlib.Path(__file__).resolve().parent
SIZE = {"U8": 1, "U16": 2, "U32": 4, "U64": 8, "B16": 16, "B32": 32}


def message_line(name, nr, keyed, fields):
    return " ".join([str(nr), name, "keyed" if keyed else "open"] +
                    [f"{t}:{f}" for t, f in fields])


def now_wire():
    return [message_line(*m) for m in lists.messages()]


def now_reasons():
    return [f"{nr} {name} {word}" for name, nr, word, _ in lists.reasons()]


def frozen(name):
    return [line for line in (HERE / name).read_text().splitlines()
            if line and not line.startswith("#")]


def compare(name, now):
    old = frozen(name)
    bad = [f"changed or gone: {line}" for line in old if line not in now]
    bad += [f"new, add it to tests/meta/{name}: {line}" for line in now if line not in old]
    return bad


def unique(rows):
    bad = []
    for what, values in (("number", [r[1] for r in rows]), ("name", [r[0] for r in rows])):
        bad += [f"the {what} {v} is used twice" for v in sorted(set(values))
                if values.count(v) > 1]
    return bad


def types():
    return [f"{m[0]}: {t} is no field type" for m in lists.messages()
            for t, _ in m[3] if t not in SIZE]


def golden():
    """The golden messages are the other frozen copy: each message has one."""
    bad = []
    for name, nr, keyed, fields in lists.messages():
        path = lists.TOP / "tests/golden" / f"{name}.hex"
        if not path.exists():
            bad.append(f"{name} has no golden message {path.name}")
            continue
        raw = bytes.fromhex(path.read_text())
        want = 8 + sum(SIZE.get(t, 0) for t, _ in fields) + (16 if keyed else 0)
        if len(raw) != want or raw[:4] != b"roam" or raw[5] != nr:
            bad.append(f"{path.name} is no {name} of {want} bytes")
    return bad


def main():
    if "--print" in sys.argv:
        print("\n".join(now_wire() + now_reasons()))
        return 0
    return tap.run([
        ("the messages are as published", lambda: compare("wire.frozen", now_wire())),
        ("the reasons are as published", lambda: compare("reason.frozen", now_reasons())),
        ("no message number or name is used twice", lambda: unique(lists.messages())),
        ("no reason number or name is used twice", lambda: unique(lists.reasons())),
        ("every field has a known type", types),
        ("every message has a golden copy of its size", golden),
    ])


if __name__ == "__main__":
    sys.exit(main())
