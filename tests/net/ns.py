"""Doing something inside another network namespace.

Only the network is another one there: files, processes and users stay, as
with `nsenter --net=` (and not `ip netns exec`, which also changes the mounts).
"""
import ctypes
import os
import signal
import threading

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _enter(fd):
    if _libc.setns(fd, CLONE_NEWNET):
        e = ctypes.get_errno()
        raise OSError(e, "setns: " + os.strerror(e))


def die_with_parent():
    """For the child of a fork: it does not outlive who started it."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def unshare():
    """For the child of a fork: a network of its own, with nothing in it."""
    if _libc.unshare(CLONE_NEWNET):
        e = ctypes.get_errno()
        raise OSError(e, "unshare: " + os.strerror(e))


class Net:
    """A namespace, held open; a child of a fork or a thread can enter it."""

    def __init__(self, path):
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.inode = os.fstat(self.fd).st_ino

    def enter(self):
        _enter(self.fd)

    def do(self, fn, *args):
        """What fn(*args) returns when a thread of its own runs it there.

        Sockets that it makes stay there."""
        got = {}

        def run():
            try:
                self.enter()
                got["value"] = fn(*args)
            except BaseException as e:      # carried over to the caller
                got["error"] = e
        t = threading.Thread(target=run)
        t.start()
        t.join()
        if "error" in got:
            raise got["error"]
        return got["value"]

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1
