#!/usr/bin/env python3
"""seeds.py GOLDEN OUT: seeds for the fuzzers, of the golden messages and the agent's example."""
import pathlib
import sys

golden, out = map(pathlib.Path, sys.argv[1:])
for kind in ('wire', 'handover', 'secure', 'conf', 'stage'):
    (out / kind).mkdir(parents=True, exist_ok=True)
for f in sorted(golden.glob('*.hex')):
    raw = bytes.fromhex(f.read_text())
    (out / 'wire' / f.stem).write_bytes(raw)
    for first in range(4):
        (out / 'handover' / f'{f.stem}{first}').write_bytes(bytes([first]) + raw * 8)
blocks = bytes.fromhex(''.join(line for line in (golden / 'stage/blocks.hex').read_text().splitlines()
                               if not line.startswith('#')))
for i, how in enumerate((b'\xff\xff', b'\0\0', b'\7\x20', b'\x40\1')):
    (out / 'stage' / f'blocks{i}').write_bytes(how + blocks)
kx = bytes.fromhex((golden / 'KX.hex').read_text())
(out / 'secure' / 'kx').write_bytes(b'\0\0' + kx + bytes(24) + b'\x12\0' + bytes(18))
send, take = b'\1\5\7\0', b'\0\0\0\0'
for i, steps in enumerate((send + take, (send + take) * 9, send * 3 + take * 3, send + take * 2,
                           send + b'\0\3\1\0', send + b'\0\0\0\1', send * 2 + b'\2\0\0\0')):
    (out / 'secure' / f'steps{i}').write_bytes(b'\1' + b'\0' + steps)
example = (golden.resolve().parent.parent / 'agent/roamd.conf.example').read_text()
(out / 'conf' / 'example').write_bytes(b'\1' + example.encode())
# every key that the example has commented out, too
bare = ''.join(line[1:] if line.startswith('#') and ' = ' in line else line
               for line in example.splitlines(True))
(out / 'conf' / 'bare').write_bytes(b'\1' + bare.encode())
section = ''
for line in bare.splitlines():
    if line.startswith('['):
        section = line.strip('[]')
    elif ' = ' in line and not line.startswith('#'):
        key, value = line.split(' = ', 1)
        (out / 'conf' / f'set-{key}').write_bytes(f'\0{section}.{key}={value}'.encode())
