#!/usr/bin/env python3
"""Builds, runs every suite, and counts the results.

Each build is a result too. A test program that speaks TAP or is a libcheck
program counts with each of its cases, any other as one. A program that failed
without a failed case (a crash, a time-out) counts as one failure. The exit
status is 0 only when nothing failed.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
SLOW = "4"          # how much longer a case may take under a sanitizer

# gcc and clang: warnings are errors. The sanitizers make gcc guess wrong warnings.
BUILDS = {
    "gcc": ("gcc", ["-Dwerror=true"]),
    "clang": ("clang", ["-Dwerror=true"]),
    "asan": ("gcc", ["-Db_sanitize=address,undefined"]),
    "tsan": ("gcc", ["-Db_sanitize=thread"]),
    "fuzz": ("clang", ["-Dfuzz=true"]),
}
# What is built of it; else everything.
TARGETS = {"fuzz": ["fuzzers"]}
FUZZ_SECONDS = 8        # each; docs and HACKING.md say how to run them for long
SANITIZER_ENV = {
    "asan": {"ASAN_OPTIONS": "abort_on_error=0:detect_stack_use_after_return=0",
             "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"},
    # programs here fork while threads run, on purpose
    "tsan": {"TSAN_OPTIONS": f"die_after_fork=0:suppressions={TOP / '.ci/tsan.supp'}"},
}
# What runs under ThreadSanitizer: what threads can meet in, without the cases
# that measure time or resources. Names are prefixes of cases.
TSAN_CONF = ["io.", "thread.", "poll.", "epoll.", "close.", "fd."]


class Count:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.bad = []           # (name, evidence)
        self.reasons = {}       # skip reason: how often

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.bad += other.bad
        for why, n in other.reasons.items():
            self.reasons[why] = self.reasons.get(why, 0) + n

    def ok(self):
        self.passed += 1

    def fail(self, name, evidence=""):
        self.failed += 1
        self.bad.append((name, evidence))

    def skip(self, why):
        self.skipped += 1
        why = why.strip() or "no reason given"
        self.reasons[why] = self.reasons.get(why, 0) + 1

    def __str__(self):
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


TAP_LINE = re.compile(r"^(ok|not ok)\b\s*\d*\s*-?\s*(.*)$")
TAP_SKIP = re.compile(r"#\s*SKIP\b\s*(.*)$", re.I)


def count_tap(name, text, ended_well):
    """The cases of a TAP stream; the plan must be kept."""
    c = Count()
    plan = None
    seen = 0
    evidence = []
    failing = None

    def close():
        if failing is not None:
            c.fail(f"{name}: {failing}", "\n".join(evidence[:24]))

    for line in text.splitlines():
        m = re.match(r"^1\.\.(\d+)(.*)$", line)
        if m:
            plan = int(m[1])
            skip = TAP_SKIP.search(m[2])
            if plan == 0:
                c.skip(skip[1] if skip else "")
            continue
        m = TAP_LINE.match(line)
        if m:
            close()
            failing, evidence = None, []
            seen += 1
            skip = TAP_SKIP.search(m[2])
            if m[1] == "not ok":
                failing = m[2]
            elif skip:
                c.skip(skip[1])
            else:
                c.ok()
        elif failing is not None and line.startswith("#"):
            evidence.append(line)
    close()
    if plan is None or seen != plan:
        c.fail(name, f"planned {plan} cases, {seen} were reported\n" + tail(text))
    elif not ended_well and not c.failed:
        c.fail(name, "the program failed, none of its cases did\n" + tail(text))
    return c


CHECK_LINE = re.compile(r"^\d+%: Checks: (\d+), Failures: (\d+), Errors: (\d+)$", re.M)


def count_program(name, out, err, result):
    """One entry of meson's testlog.json."""
    ended_well = result in ("OK", "EXPECTEDFAIL")
    if re.search(r"^1\.\.\d+", out, re.M):
        return count_tap(name, out, ended_well or result == "SKIP")
    c = Count()
    sums = CHECK_LINE.findall(out)
    if result == "SKIP":
        c.skip(tail(out or err, 1))
    elif sums:
        total = sum(int(s[0]) for s in sums)
        bad = sum(int(s[1]) + int(s[2]) for s in sums)
        c.passed += total - bad
        for _ in range(bad):
            c.fail(name, tail(out))
        if not ended_well and not bad:
            c.fail(name, f"{result}\n" + tail(out + err))
    elif ended_well:
        c.ok()
    else:
        c.fail(name, f"{result}\n" + tail(out + err))
    return c


SANITIZER = re.compile(r"^SUMMARY: (\w+Sanitizer: .*)$|^(.*runtime error: .*)$", re.M)


def sanitizer_reports(name, text, c):
    """Each place that a sanitizer names is a failure, however often it does.

    A case that ends by _exit has no exit status to tell it by."""
    places = {}
    for m in SANITIZER.finditer(text):
        what = re.sub(r"(?:\.\./)+", "", m[1] or m[2])
        places[what] = places.get(what, 0) + 1
    for what, n in sorted(places.items()):
        c.fail(f"{name}: {what}" + (f" ({n} times)" if n > 1 else ""))


def tail(text, n=15):
    return "\n".join(text.strip().splitlines()[-n:])


class Runner:
    def __init__(self, args):
        self.args = args
        self.root = pathlib.Path(args.build_root).resolve()
        self.total = Count()
        self.began = time.monotonic()
        self.wrapper = []
        # Short: the path of a UNIX socket has 107 bytes. Open: some cases become another user.
        self.tmp = tempfile.mkdtemp(prefix="rci-", dir="/tmp")
        os.chmod(self.tmp, 0o755)

    def env(self, build, **more):
        env = {k: v for k, v in os.environ.items()
               if not (k.startswith("ROAM") and not k.startswith("ROAM_TEST"))}
        env["TMPDIR"] = self.tmp
        env.update(SANITIZER_ENV.get(build, {}))
        env.update(more)
        return env

    def report(self, what, c, began):
        self.total.add(c)
        print(f"{what:<34} {c}  ({time.monotonic() - began:.0f} s)", flush=True)
        for name, evidence in c.bad:
            print(f"    FAILED {name}")
            for line in evidence.splitlines():
                print(f"        {line[:240]}")
        sys.stdout.flush()

    def build(self, build):
        began = time.monotonic()
        cc, options = BUILDS[build]
        where = self.root / build
        c = Count()
        if not shutil.which(cc):
            c.skip(f"{cc} is not installed")
            self.report(f"{build}: build", c, began)
            return None
        again = ["--reconfigure"] if (where / "build.ninja").exists() else []
        env = self.env(build, CC=cc)
        for cmd in (["meson", "setup", *again, *options, str(where), str(TOP)],
                    ["ninja", "-C", str(where), *TARGETS.get(build, [])]):
            done = subprocess.run(cmd, env=env, stdin=subprocess.DEVNULL, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if done.returncode:
                c.fail(" ".join(cmd), tail(done.stdout, 40))
                self.report(f"{build}: build", c, began)
                return None
        if "warning:" in done.stdout and build in ("gcc", "clang"):
            c.fail(f"{build} warns", tail(done.stdout, 40))
        else:
            c.ok()
        self.report(f"{build}: build", c, began)
        return where

    def meson(self, build, where, suites, scale=None):
        """Runs suites through meson, one line for each."""
        for suite in suites:
            began = time.monotonic()
            log = where / "meson-logs" / "testlog.json"
            log.unlink(missing_ok=True)
            cmd = [*self.wrapper, "meson", "test", "-C", str(where), "--no-rebuild",
                   "--suite", suite]
            env = self.env(build)
            if scale:
                cmd += ["-t", scale]
                env["ROAM_TEST_SCALE"] = scale
            done = subprocess.run(cmd, env=env, stdin=subprocess.DEVNULL, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            c = Count()
            entries = []
            if log.exists():
                entries = [json.loads(line) for line in log.read_text().splitlines() if line]
            for t in entries:
                out, err = t.get("stdout") or "", t.get("stderr") or ""
                c.add(count_program(t["name"], out, err, t["result"]))
                sanitizer_reports(t["name"], out + err, c)
            if not entries:
                if "No suitable tests" in done.stdout or "No tests" in done.stdout:
                    c.skip(f"suite {suite} has no test")
                else:
                    c.fail(f"suite {suite}", tail(done.stdout))
            elif done.returncode and not c.failed:
                c.fail(f"suite {suite}", "meson says that something failed\n" +
                       tail(done.stdout))
            self.report(f"{build}: {suite}", c, began)

    def tap(self, build, what, cmd, limit, **env):
        """Runs one TAP program with arguments that meson's test has not."""
        began = time.monotonic()
        try:
            done = subprocess.run([*self.wrapper, *map(str, cmd)],
                                  env=self.env(build, **env),
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, errors="replace",
                                  timeout=limit)
            out, rc = done.stdout, done.returncode
        except subprocess.TimeoutExpired as e:
            out, rc = (e.stdout or b"").decode(errors="replace"), -1
        c = count_tap(what, out, rc in (0, 77))
        sanitizer_reports(what, out, c)
        self.report(f"{build}: {what}", c, began)

    def e2e(self, build, where, what, groups, breaks, limit, scale):
        self.tap(build, what, [sys.executable, TOP / "tests/e2e/e2e.py", "--bin-dir",
                               where / "examples", "--breaker",
                               where / "tests/support/breaker", "--breaks", breaks, *groups],
                 limit, ROAM_TEST_SCALE=scale)

    def tsan_wrapper(self, where):
        """gcc's ThreadSanitizer does not start under much address randomisation."""
        probe = where / "examples" / "echo_client"
        run = [str(probe), "-h"]
        if subprocess.run(run, capture_output=True).returncode == 0:
            return []
        fixed = ["setarch", "-R"]
        if shutil.which("setarch") and \
                subprocess.run(fixed + run, capture_output=True).returncode == 0:
            return fixed
        return None

    def fuzz(self, where):
        """Each target for some seconds, from the golden messages on."""
        subprocess.run(["ninja", "-C", str(where), "fuzz-seeds"], stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, check=True)
        began, c = time.monotonic(), Count()
        for program in sorted((where / "tests/fuzz").glob("fuzz_*")):
            if not (program.is_file() and os.access(program, os.X_OK)):
                continue
            seeds = where / "tests/fuzz/seeds" / program.name.removeprefix("fuzz_")
            with tempfile.TemporaryDirectory(dir=self.tmp) as found:
                done = subprocess.run([str(program), f"-max_total_time={FUZZ_SECONDS}", "-timeout=10", "-rss_limit_mb=1024",
                                       f"-artifact_prefix={where}/", found, *([str(seeds)] if seeds.is_dir() else [])],
                                      stdin=subprocess.DEVNULL, text=True, errors="replace",
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if done.returncode:
                c.fail(program.name, tail(done.stdout, 30))
            elif not re.search(r"^Done \d{3,} runs", done.stdout, re.M):
                c.fail(program.name, "it hardly ran: " + tail(done.stdout, 3))
            else:
                c.ok()
        if not c.passed and not c.failed:
            c.fail("fuzz", "no target was built")
        self.report(f"fuzz: {FUZZ_SECONDS} s each", c, began)

    def run(self):
        a = self.args
        for build in a.builds:
            where = self.build(build)
            if not where:
                continue
            if build == "gcc":
                self.meson(build, where, ["unit", "agent", "conf", "meta", "cover", "e2e", "ring", "hostile", "net", "api", "tutorial", "counts",
                                          "real-fast"])
            elif build == "clang":
                self.meson(build, where, ["unit", "agent", "conf", "meta", "counts"])
                self.e2e(build, where, "e2e (100 breaks)", ["stress", "modes"], 100, 300, "1")
            elif build == "asan":
                self.meson(build, where, ["unit", "agent", "conf"], SLOW)
                self.e2e(build, where, "e2e (60 breaks)", ["stress", "plain"], 60, 400, SLOW)
                self.tap(build, "net (moves, park)",
                         [sys.executable, TOP / "tests/net/net.py", "--build", where, "moves", "park"],
                         600, ROAM_TEST_SCALE=SLOW)
            elif build == "fuzz":
                self.fuzz(where)
            elif build == "tsan":
                wrapper = self.tsan_wrapper(where)
                if wrapper is None:
                    c = Count()
                    c.skip("ThreadSanitizer does not start on this kernel")
                    self.report("tsan: all", c, time.monotonic())
                    continue
                self.wrapper = wrapper
                self.meson(build, where, ["unit"], SLOW)
                only = [x for p in TSAN_CONF for x in ("--only", p)]
                for mode in ("plainpeer", "upgraded"):
                    self.tap(build, f"conf ({mode})",
                             [where / "tests/conf/conf_roam", "--mode", mode, *only], 400,
                             CONF_PEER=str(where / "tests/conf/conf_peer"))
                self.wrapper = []
        t = self.total
        print(f"\n{time.monotonic() - self.began:.0f} s; the logs are under {self.root}")
        if t.reasons:
            print("Skipped:")
            for why, n in sorted(t.reasons.items()):
                print(f"    {n} x {why}")
        if t.bad:
            print("Failed:")
            for name, _ in t.bad:
                print(f"    {name}")
        print(t, flush=True)
        return 1 if t.failed or not t.passed else 0


def main():
    p = argparse.ArgumentParser(prog=".ci/run", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("builds", nargs="*", metavar="build",
                   help="of " + ", ".join(BUILDS) + " (default: all)")
    p.add_argument("--build-root", default=str(TOP / "build-ci"),
                   help="where to build (%(default)s)")
    args = p.parse_args()
    for b in args.builds:
        if b not in BUILDS:
            p.error(f"no such build: {b}")
    args.builds = args.builds or list(BUILDS)
    runner = Runner(args)
    try:
        return runner.run()
    finally:
        shutil.rmtree(runner.tmp, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
