"""Processes on hosts: where they run, and when they said what."""
import os
import resource
import subprocess
import threading
import time

import harness
import ns


class Proc(harness.Proc):
    """A harness.Proc inside a host; each line of stderr has a time.

    `lines`: (monotonic ns, text). A pipe and a thread, so that a line is timed
    when it comes and not when somebody looks."""

    def __init__(self, argv, workdir, label, env, host=None, nofile=None, uid=None,
                 stdin=subprocess.DEVNULL):
        self.label = label
        self.argv = [str(a) for a in argv]
        self.host = host
        self.lines = []
        self.paths = [os.path.join(workdir, f"{label}.{s}") for s in ("out", "err")]
        self.last_words = None
        self.started = time.monotonic()

        def prepare():
            ns.die_with_parent()
            if host is not None:
                host.net.enter()
            if nofile is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))
            if uid is not None:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)

        with open(self.paths[0], "wb") as out:
            self.popen = subprocess.Popen(self.argv, stdin=stdin, stdout=out,
                                          stderr=subprocess.PIPE, env=env,
                                          preexec_fn=prepare)
        self.pid = self.popen.pid
        self._reader = threading.Thread(target=self._read_lines, daemon=True)
        self._reader.start()

    def _read_lines(self):
        with self.popen.stderr as pipe, open(self.paths[1], "wb") as copy:
            for line in pipe:
                self.lines.append((time.monotonic_ns(),
                                   line.decode(errors="replace").rstrip("\n")))
                copy.write(line)
                copy.flush()

    def wait(self, seconds):
        rc = super().wait(seconds)
        self._reader.join(1)        # its last lines are still in the pipe
        return rc

    def err(self):
        return "".join(text + "\n" for _, text in self.lines)

    def when(self, event, after=0):
        """Times (ns) at which the library logged this event."""
        return [t for t, text in list(self.lines) if t > after and
                (m := harness.ROAM_LINE.match(text)) and m[3] == event]

    def kill(self):
        if self.alive():
            self.popen.kill()
        self.popen.wait()
        self._reader.join(1)

    def remember(self):
        """What it looked like before it was stopped at the end of a case."""
        if self.last_words is None:
            self.last_words = self.describe()

    def describe(self):
        if self.last_words is not None:
            return self.last_words
        where = f"[{self.host.name}] " if self.host else ""
        text = super().describe()
        text[0] = where + text[0]
        return text

    def memory(self):
        """User memory in bytes, shared pages by share (PSS)."""
        with open(f"/proc/{self.pid}/smaps_rollup") as f:
            for line in f:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
        raise harness.Fail(f"{self.label}: no Pss in smaps_rollup")
