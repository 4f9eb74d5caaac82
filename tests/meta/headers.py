#!/usr/bin/env python3
"""headers.py CC...: each header compiles alone, and the pure core stays pure."""
import os
import re
import shutil
import subprocess
import sys
import tempfile

import lists
import tap

TOP = lists.TOP
# No descriptor, no clock, no memory of their own: they may know only each other.
PURE = {"codec", "codec_zlib", "decide", "guess", "rate", "stage", "stage_dec", "handover", "provider", "reason", "replay", "ring", "ring_int", "ring_sleep", "wire", "types"}
PURE_SYSTEM = {"string.h", "stdatomic.h", "stddef.h", "stdint.h", "stdbool.h", "sodium.h", "zlib.h"}


def compile_alone(cc, header):
    flags = ["-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-Wno-unused",
             f"-I{TOP / 'lib'}", f"-I{TOP / 'wrap'}", f"-I{TOP / 'include'}", "-fsyntax-only", "-x", "c"]
    with tempfile.NamedTemporaryFile("w", suffix=".c") as f:
        # twice: a guard that is missing shows too
        f.write(f'#include "{header}"\n#include "{header}"\nint roam_header_check;\n')
        f.flush()
        done = subprocess.run([*cc, *flags, f.name], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
    return done.stdout.splitlines()[:6] if done.returncode else []


def public(cc):
    """roam.h is compiled by others: as strict C99, and as C++."""
    bad = []
    for compiler, flags in ((cc, ["-std=c99", "-x", "c"]), ([shutil.which("g++")], ["-std=c++11", "-x", "c++"])):
        if not compiler[0]:
            continue
        use = '#include <roam.h>\nint main(void) { return roam_linked() ? roam_events() : 0; }\n'
        done = subprocess.run([*compiler, *flags, "-pedantic-errors", "-Wall", "-Wextra", "-Werror", f"-I{TOP / 'include'}",
                               "-fsyntax-only", "-"], input=use, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True)
        bad += done.stdout.splitlines()[:6] if done.returncode else []
    return bad


def includes(path):
    return re.findall(r'^#include\s+(["<])([^">]+)[">]', path.read_text(), re.M)


def pure():
    bad = []
    for name in sorted(PURE - {"types"}):
        for path in (TOP / f"lib/{name}.h", TOP / f"lib/{name}.c"):
            if not path.exists():
                continue
            for kind, inc in includes(path):
                stem = inc.rsplit(".", 1)[0]
                if (stem not in PURE) if kind == '"' else (inc not in PURE_SYSTEM):
                    bad.append(f"{path.name} includes {inc}: the core knows only "
                               f"{', '.join(sorted(PURE))}")
    return bad


def layers():
    """Includes point one way: wrap/ -> lib/, nothing in lib/ includes wrap/."""
    return [f"lib/{p.name} includes {inc}: that is wrap/'s"
            for p in sorted((TOP / "lib").glob("*.[ch]")) for _, inc in includes(p)
            if (TOP / "wrap" / inc).exists() and not inc.endswith("wrap.def")]


def main():
    cc = sys.argv[1:] or [os.environ.get("CC", "cc")]
    headers = sum((sorted((TOP / d).glob("*.h")) for d in ("include", "lib", "wrap", "agent")), [])
    checks = [(f"{h.parent.name}/{h.name} compiles alone",
               lambda h=h: compile_alone(cc, str(h))) for h in headers]
    return tap.run(checks + [("roam.h is fit for others", lambda: public(cc)),
                             ("the core knows no descriptor and no clock", pure),
                             ("lib/ includes nothing of wrap/", layers)])


if __name__ == "__main__":
    sys.exit(main())
