#!/usr/bin/env python3
"""seeds.py GOLDEN OUT: the golden messages as binary seeds for the fuzzers."""
import pathlib
import sys

golden, out = map(pathlib.Path, sys.argv[1:])
for kind in ('wire', 'handover'):
    (out / kind).mkdir(parents=True, exist_ok=True)
for f in sorted(golden.glob('*.hex')):
    raw = bytes.fromhex(f.read_text())
    (out / 'wire' / f.stem).write_bytes(raw)
    for first in range(4):
        (out / 'handover' / f'{f.stem}{first}').write_bytes(bytes([first]) + raw * 8)
