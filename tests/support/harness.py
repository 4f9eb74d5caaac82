"""What the process-level tests share: namespaces, processes, waiting, TAP.

A case is a function that takes a Case. It starts programs through it, waits
for facts (never for time), and raises Fail or Skip. Whatever it leaves behind
is stopped by process id and removed when it returns.
"""
import ctypes
import importlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

PR_SET_PDEATHSIG = 1
IN_NETNS = "ROAM_TEST_IN_NETNS"
SCALE = float(os.environ.get("ROAM_TEST_SCALE", "1"))   # slow hosts, sanitizers
NOBODY = 65534

# What a sanitizer says; a program that prints it has failed, whatever it returns.
SANITIZER = re.compile(r"ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|"
                       r"runtime error: |Assertion .* failed")
ROAM_LINE = re.compile(r"^roam\[(\d+)\]: (?:([0-9a-f]{8,32}) )?(\S+) ?(.*)$",
                       re.M)
_libc = ctypes.CDLL(None, use_errno=True)


class Fail(Exception):
    pass


class Skip(Exception):
    pass


class Timeout(Fail):
    pass


def enter_netns():
    """Starts this program again inside a private network namespace.

    Returns the reason when that is not possible, else None (and then loopback
    is up and nothing that a case does can reach the host)."""
    if os.environ.get(IN_NETNS):
        done = subprocess.run(["ip", "link", "set", "lo", "up"],
                              capture_output=True, text=True)
        return done.stderr.strip() or None
    for how in (["-n"], ["-rn"]):
        cmd = ["unshare", *how, "--"]
        try:
            if subprocess.run([*cmd, "ip", "link", "set", "lo", "up"],
                              capture_output=True).returncode == 0:
                os.environ[IN_NETNS] = "1"
                sys.stdout.flush()
                os.execvp("unshare", [*cmd, sys.executable, *sys.argv])
        except FileNotFoundError:
            return "unshare or ip is not installed"
    return "unshare -n is not permitted"


def wait_for(pred, seconds, what):
    """The value of pred() as soon as it is true; Timeout after `seconds`."""
    end = time.monotonic() + seconds * SCALE
    while True:
        value = pred()
        if value:
            return value
        if time.monotonic() >= end:
            raise Timeout(f"waited {seconds * SCALE:g} s for {what}")
        time.sleep(0.003)


class Proc:
    """A child with its output in files, so that it stays readable after a crash."""

    def __init__(self, argv, workdir, label, env, nofile=None, uid=None):
        self.label = label
        self.argv = [str(a) for a in argv]
        self.paths = [os.path.join(workdir, f"{label}.{s}") for s in ("out", "err")]
        self.started = time.monotonic()

        def prepare():
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if nofile is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))
            if uid is not None:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)

        files = [open(p, "wb") for p in self.paths]
        try:
            self.popen = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL,
                                          stdout=files[0], stderr=files[1],
                                          env=env, preexec_fn=prepare)
        finally:
            for f in files:
                f.close()
        self.pid = self.popen.pid

    def _read(self, i):
        with open(self.paths[i], errors="replace") as f:
            return f.read()

    def out(self):
        return self._read(0)

    def err(self):
        return self._read(1)

    def alive(self):
        return self.popen.poll() is None

    def wait(self, seconds):
        try:
            return self.popen.wait(seconds * SCALE)
        except subprocess.TimeoutExpired:
            raise Timeout(f"{self.label} still runs after "
                          f"{seconds * SCALE:g} s") from None

    def succeed(self, seconds):
        rc = self.wait(seconds)
        if rc != 0:
            raise Fail(f"{self.label} ended with {describe(rc)}")

    def signal(self, sig):
        if self.alive():
            self.popen.send_signal(sig)

    def stop(self):
        """Asks it to end, insists after 3 s; the exit status."""
        self.signal(signal.SIGTERM)
        try:
            return self.popen.wait(3 * SCALE)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()

    def expect(self, pattern, seconds=5):
        """Waits for a pattern in its output; its end is the end of the wait."""
        def look():
            ended = not self.alive()
            m = re.search(pattern, self.out(), re.M) or \
                re.search(pattern, self.err(), re.M)
            if not m and ended:
                raise Fail(f"{self.label} ended with "
                           f"{describe(self.popen.returncode)} before it "
                           f"printed {pattern!r}")
            return m
        return wait_for(look, seconds, f"{pattern!r} from {self.label}")

    def events(self, event):
        """The library's log lines of this kind, as (connection id, rest)."""
        return [(m[2], m[4]) for m in ROAM_LINE.finditer(self.err())
                if m[3] == event]

    def connections(self, event):
        return {cid for cid, _ in self.events(event)}

    def fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def describe(self):
        rc = self.popen.poll()
        text = [f"{self.label} (pid {self.pid}): {' '.join(self.argv)}",
                "  " + ("still running" if rc is None else describe(rc))]
        for name, body in (("stdout", self.out()), ("stderr", self.err())):
            lines = body.splitlines()
            if len(lines) > 24:
                lines = lines[:6] + [f"... {len(lines) - 22} lines ..."] + lines[-16:]
            text += [f"  {name}: {line[:300]}" for line in lines]
        return text


def describe(rc):
    if rc >= 0:
        return f"exit status {rc}"
    try:
        return f"signal {signal.Signals(-rc).name}"
    except ValueError:
        return f"signal {-rc}"


class Case:
    def __init__(self, config):
        self.config = config
        self.procs = []
        self.notes = []
        self.seed = config.seed
        self.dir = tempfile.mkdtemp(prefix="roam-test-")
        self.roam_dir = os.path.join(self.dir, "roam")
        os.mkdir(self.roam_dir, 0o700)

    def environ(self, roam_dir=None, **changes):
        env = {k: v for k, v in os.environ.items() if not k.startswith("ROAM")}
        env["ROAM_DIR"] = roam_dir or self.roam_dir
        env["ROAM_LOG"] = os.environ.get("ROAM_TEST_LOG", "info")
        env["ROAM_LINK"] = "tcp"    # cases about rings say so
        for k, v in changes.items():
            if v is None:
                env.pop(k, None)
            else:
                env[k] = v
        return env

    def start(self, argv, env=None, **how):
        label = f"{len(self.procs)}-{os.path.basename(str(argv[0]))}"
        p = Proc(argv, self.dir, label, env or self.environ(), **how)
        self.procs.append(p)
        return p

    def breaker(self, procs, how="kill", interval="5:30", count=None,
                until=None, port=None, side="random", max_seconds=120,
                half_closed=False):
        """Starts the breaker; it ends with `until`, with `count`, or by stop()."""
        self.need(how)
        argv = [self.config.breaker, "--how", how, "--interval-ms", interval,
                "--side", side, "--seed", str(self.seed),
                "--max-seconds", str(int(max_seconds * SCALE))]
        if procs:
            argv += ["--pid", ",".join(str(p.pid) for p in procs)]
        if port:
            argv += ["--port", str(port)]
        if count:
            argv += ["--count", str(count)]
        if until:
            argv += ["--until-pid", str(until.pid)]
        if half_closed:
            argv += ["--half-closed"]
        return self.start(argv)

    def breaks_of(self, breaker):
        """Stops a breaker and says how often it really broke something."""
        rc = breaker.stop()
        if rc == 77:
            raise Skip(breaker.err().strip())
        m = re.search(r"^(\d+) breaks$", breaker.out(), re.M)
        if rc != 0 or not m:
            raise Fail(f"the breaker ended with {describe(rc)}")
        return int(m[1])

    def need(self, how):
        """Skips unless breaks can be made without touching the host."""
        if self.config.no_netns:
            raise Skip(self.config.no_netns)
        if how not in self.config.probed:
            done = subprocess.run([self.config.breaker, "--probe", "--how", how],
                                  capture_output=True, text=True)
            self.config.probed[how] = done.stderr.strip() if done.returncode else ""
        if self.config.probed[how]:
            raise Skip(self.config.probed[how])

    def check(self, ok, message):
        if not ok:
            raise Fail(message)

    def note(self, text):
        self.notes.append(text)

    def check_sanitizers(self):
        for p in self.procs:
            m = SANITIZER.search(p.err())
            if m:
                raise Fail(f"{p.label}: {m[0]}")

    def close(self):
        for p in reversed(self.procs):
            if p.alive():
                p.stop()
        if not self.config.keep:
            shutil.rmtree(self.dir, ignore_errors=True)


class Config:
    """What all cases need to know; programs are looked up by name."""

    def __init__(self, breaker, seed, keep=False, no_netns=None):
        self.breaker = breaker
        self.seed = seed
        self.keep = keep
        self.no_netns = no_netns
        self.probed = {}


def skip_all(reason):
    """Nothing can be run here: says so as TAP; the exit status."""
    print(f"1..0 # SKIP {reason}")
    # meson's TAP reader takes every status but 0 for an error
    return 0 if "MESON_TEST_ITERATION" in os.environ else 77


def _alarm(_sig, _frame):
    raise Timeout("the time limit of the case")


def _bracket(limit, fn, case):
    """Runs fn under a time limit that also ends a stuck wait."""
    signal.signal(signal.SIGALRM, _alarm)
    signal.setitimer(signal.ITIMER_REAL, limit * SCALE)
    try:
        fn(case)
        case.check_sanitizers()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _terminate(sig, _frame):
    raise SystemExit(128 + sig)     # so that "finally" stops the children


def _comment(lines):
    for line in lines:
        print("# " + line)


def parse_run(parser, groups):
    """Parses a runner's command line; the options that all runners have are added."""
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--keep", action="store_true", help="keep the output files")
    args = parser.parse_args()
    for g in args.groups:
        if g not in groups:
            parser.error(f"no such group: {g}")
    if args.seed is None:
        args.seed = int.from_bytes(os.urandom(4), "big")
    return args


def select(args, default):
    """The cases of the groups asked for: from module cases_GROUP each."""
    return [c for g in args.groups or default
            for c in importlib.import_module("cases_" + g).cases(args)
            if args.only in c[0]]


def run_cases(cases, config):
    """cases: (name, limit in seconds, function). TAP; the exit status."""
    signal.signal(signal.SIGTERM, _terminate)
    counts = dict(passed=0, failed=0, skipped=0)
    print(f"1..{len(cases)}", flush=True)
    for i, (name, limit, fn) in enumerate(cases, 1):
        case = Case(config)
        began = time.monotonic()
        evidence = []
        try:
            _bracket(limit, fn, case)
            result, extra = "passed", ""
        except Skip as e:
            result, extra = "skipped", f" # SKIP {e}".replace("\n", "; ")
        except Fail as e:
            result, extra = "failed", ""
            evidence = [str(e)]
        except Exception:                       # a mistake in the test itself
            result, extra = "failed", ""
            evidence = traceback.format_exc().splitlines()
        finally:
            if evidence:
                evidence.append(f"seed {config.seed}; files in {case.dir}"
                                if config.keep else f"seed {config.seed}")
                # the server, and whatever was started last
                shown = case.procs[:1] + case.procs[1:][-6:]
                evidence.append(f"{len(shown)} of {len(case.procs)} processes:")
                for p in shown:
                    evidence += p.describe()
            case.close()
        counts[result] += 1
        took = time.monotonic() - began
        note = "".join(f"; {n}" for n in case.notes)
        word = "not ok" if result == "failed" else "ok"
        print(f"{word} {i} - {name} ({took:.1f} s{note}){extra}")
        _comment(evidence)
        sys.stdout.flush()
    _comment([", ".join(f"{n} {word}" for word, n in counts.items())])
    return 1 if counts["failed"] else 0

