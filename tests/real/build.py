"""A program as it is, and the same objects linked once more with roam.

The second link is the first one's own command with more arguments at its end:
nothing is compiled twice, so that what differs is the library alone.
"""
import os
import re
import shlex
import shutil

import deb
from harness import Fail, Skip


class How:
    """How programs are re-linked: where the response file and the library are."""

    def __init__(self, rsp, libdir, whole=True, extra=()):
        self.rsp, self.libdir = rsp, libdir
        self.whole, self.extra = whole, list(extra)

    def flags(self):
        # A response file for the compiler (-Wl,--wrap=x) or for the linker (--wrap=x)
        with open(self.rsp) as f:
            rsp = ("@" if "-Wl," in f.read() else "-Wl,@") + self.rsp
        lib = ["-L" + self.libdir, "-lroam"] if self.whole else [f"{self.libdir}/libroam.a"]
        return [rsp, *lib, "-lsodium", "-lpthread", *self.extra]

    def newest(self):
        return max(os.path.getmtime(p) for p in
                   (self.rsp, f"{self.libdir}/libroam.a", f"{self.libdir}/libroam-cover.o"))


def need(tools=(), headers=()):
    """Skips when something is missing that Debian's package would need to build, too."""
    for t in tools:
        if not shutil.which(t):
            raise Skip(f"{t} is not installed")
    for h, package in headers:
        rc, _ = deb.run(["sh", "-c", f"echo '#include <{h}>' | cc -I/usr/include/luajit-2.1 -E - >/dev/null 2>&1"])
        if rc != 0:
            raise Skip(f"{package} is not installed")


def wrapped_symbols(path):
    _, out = deb.run(["nm", path])
    return len(re.findall(r" __wrap_\w+$", out, re.M))


def commands(text):
    """What make printed, one shell command a line."""
    return re.sub(r"\\\n\s*", " ", text).splitlines()


class Build:
    """real/PACKAGE: bin/plain and bin/roam, with the binaries of `names`.

    tree: where the sources are and are built."""

    def __init__(self, how, top, package):
        self.how, self.top, self.package = how, top, package
        self.home = os.path.join(top, package)
        os.makedirs(self.home, exist_ok=True)
        self.log = os.path.join(self.home, "build.log")
        self.tree = deb.fetch(package, top, self.log)

    def bin(self, kind, name=""):
        return os.path.join(self.home, "bin", kind, name)

    def sh(self, *argv, cwd=None, what=None):
        rc, out = deb.run([str(a) for a in argv], cwd or self.tree, self.log)
        if rc != 0:
            tail = "\n".join(out.splitlines()[-15:])
            raise Fail(f"{self.package}: {what or ' '.join(map(str, argv))[:200]} failed:\n{tail}")
        return out

    def made(self, name):
        """Has this step been done in an earlier run? The caller does it if not."""
        return os.path.exists(os.path.join(self.home, "done." + name))

    def mark(self, name):
        with open(os.path.join(self.home, "done." + name), "w"):
            pass

    def link_command(self, binary, make, cwd):
        """The command that links: what make would run if the binary were not there."""
        path = os.path.join(cwd, binary)
        aside = path + ".aside"
        os.rename(path, aside)
        try:
            out = self.sh(*make, "-n", "--no-print-directory", cwd=cwd)
        finally:
            os.rename(aside, path)
        name = re.escape(binary)
        for line in commands(out):
            if re.search(rf"(^|\s)-o\s+(\S*/)?{name}(\s|$)", line) and " -c " not in line:
                return line.strip()
        raise Fail(f"{self.package}: no command in the output of make -n links {binary}")

    def both(self, binaries, make, cwd=None):
        """binaries: paths in cwd, already built. Copies them, and links them again."""
        cwd = cwd or self.tree
        for kind in ("plain", "roam"):
            os.makedirs(self.bin(kind), exist_ok=True)
        for b in binaries:
            command = make if isinstance(make, str) else None
            self.one(b, command or self.link_command(b, [*make, b], cwd), cwd)

    def one(self, binary, command, cwd):
        """Copies one binary, and links it again with this command."""
        name = os.path.basename(binary)
        plain, roam = self.bin("plain", name), self.bin("roam", name)
        original = os.path.join(cwd, binary)
        if not os.path.exists(plain):
            shutil.copy(original, plain)
        if not os.path.exists(roam) or os.path.getmtime(roam) < self.how.newest():
            more = " ".join(shlex.quote(f) for f in self.how.flags())
            try:
                self.sh("sh", "-c", f"{command} {more}", cwd=cwd, what=f"linking {name} again")
                shutil.move(original, roam)
            finally:
                # A linker that fails has removed it.
                shutil.copy(plain, original)
                os.utime(original)
        self.check(name)

    def check(self, name):
        """A pass with a binary that was not re-linked would mean nothing."""
        if wrapped_symbols(self.bin("plain", name)):
            raise Fail(f"{name}: the plain one is re-linked as well")
        if not wrapped_symbols(self.bin("roam", name)):
            raise Fail(f"{name} has no __wrap_ symbol: it is not re-linked")
