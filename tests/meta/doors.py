#!/usr/bin/env python3
"""doors.py ROAM.RSP OBJECTS.A...: only lib/sys.c may speak to the kernel.

The --wrap flags of a re-linked program rewrite the library's own calls too.
So every object but sys.c.o may use, from outside the archive, only what is on
the list below: functions that do not enter the kernel on a descriptor.
"""
import collections
import os
import re
import subprocess
import sys

import lists
import tap

# Memory, strings, numbers: no descriptor behind them.
HARMLESS = """
memcpy memmove memset memcmp bcmp memchr strlen strnlen strcmp strncmp strchr strrchr strstr
strcpy strncpy strspn strcspn strerror strerrorname_np strtol strtok_r strtoul strtoll strtoull
stpcpy snprintf vsnprintf vasprintf asprintf sscanf vsscanf
malloc calloc realloc aligned_alloc free abort getenv qsort bsearch
inet_ntop inet_pton __errno_location
sigemptyset sigfillset sigaddset sigdelset sigismember
sodium_.* crypto_.* pthread_.*
deflate deflateInit2_ deflateParams deflateReset deflateEnd
inflate inflateInit2_ inflateReset inflateSetDictionary inflateEnd
"""
# What the compiler and the linker add: fortified and renamed forms of the above,
# thread-local storage, unwinding, sanitizers and coverage.
COMPILER = r"""
__(mem|str|stp|sn|vsn|vas|as)\w+_chk __isoc\d+_v?s?scanf __isoc\d+_strto\w+
dl_iterate_phdr roam_cover_\w+
_GLOBAL_OFFSET_TABLE_ __tls_get_addr __stack_chk_fail __stack_chk_guard
__libc_single_threaded __gcc_personality_v0 _Unwind_Resume __register_atfork __sigsetjmp __dso_handle
__(asan|ubsan|tsan|msan|sancov|sanitizer|llvm|gcov)_\w+ __aarch64_\w+ __atomic_\w+
__start_\w+ __stop_\w+
"""
ALLOWED = re.compile("|".join(f"(?:{w})" for w in (HARMLESS + COMPILER).split()))



def objects(archive):
    """source name -> (defined, undefined) symbols."""
    out = subprocess.run([os.environ.get("NM", "nm"), "-A", archive], check=True,
                         stdout=subprocess.PIPE, text=True).stdout
    found = collections.defaultdict(lambda: (set(), set()))
    for line in out.splitlines():
        m = re.match(r".*[:\[]([^:\[\]]+)\.o\]?:\s*[0-9a-f]*\s+(\w)\s+(\S+)", line)
        if not m:
            continue
        source = os.path.basename(m[1])     # a thin archive names paths
        for prefix in (".._lib_", "lib_"):
            if source.startswith(prefix):
                source = "lib/" + source[len(prefix):]
        found[source][m[2] in "Uwv"].add(m[3])
    return found


def main():
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    objs = {k: v for a in sys.argv[2:] for k, v in objects(a).items()}
    door = "lib/sys.c"
    wrapped = {name for _, _, name in lists.calls()}
    ours = set().union(*(d for d, _ in objs.values()))

    def there():
        if door not in objs:
            return [f"no object of {door} among {', '.join(sorted(objs))}"]
        if len(objs) < 10:
            return [f"only {len(objs)} objects: is this the right archive?"]
        return []

    def flags():
        """meson reads the list by itself: does it see every line?"""
        with open(sys.argv[1]) as f:
            there = re.findall(r"--wrap=(\S+)", f.read())
        want = [name for _, _, name in lists.calls()]
        return [f"wrap.def lists {n}, the linker flags do not" for n in want if n not in there] + \
               [f"the linker flags have {n}, wrap.def does not" for n in there if n not in want]

    def entries():
        return [f"wrap.def lists {n}, but nothing defines __wrap_{n}"
                for _, _, n in lists.calls() if f"__wrap_{n}" not in ours]

    def doors():
        bad = []
        for source, (_, undefined) in sorted(objs.items()):
            if source == door:
                continue
            for s in sorted(undefined - ours):
                # libc's dlsym, from the member that stands for it
                if s == "__real_dlsym" and source == "wrap_dlsym.c":
                    continue
                if s.startswith("__real_") or s in wrapped:
                    bad.append(f"{source} uses {s}: call sys_{s.removeprefix('__real_')} instead")
                elif not ALLOWED.fullmatch(s):
                    bad.append(f"{source} uses {s}: give lib/sys.c a function for it, or, if "
                               "it never enters the kernel on a descriptor, add it to doors.py")
        return bad

    def layers():
        return [f"{source} uses {s}: lib/ must not know wrap/"
                for source, (_, undefined) in sorted(objs.items()) if source.startswith("lib/")
                for s in sorted(undefined) if s.startswith("__wrap_")]

    def door_defines():
        defined = objs[door][0] if door in objs else set()
        return [f"{door} has no sys_{n}" for kind, _, n in lists.calls()
                if kind not in ("NOSYS", "PROG") and f"sys_{n}" not in defined]

    return tap.run([
        ("the archive has the library's objects", there),
        ("every listed call has a linker flag", flags),
        ("every listed call has an entry", entries),
        ("every listed call has a door", door_defines),
        ("only sys.c speaks to the kernel", doors),
        ("lib/ does not know wrap/", layers),
    ])


if __name__ == "__main__":
    sys.exit(main())
