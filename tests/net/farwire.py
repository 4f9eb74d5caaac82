"""A cable that takes time: two TAP devices, and a thread between them.

The kernel here has no netem. What is sent waits for the narrow place (rate) and then
for the delay. Good for some 20 Mbit/s.
"""
import collections
import fcntl
import os
import select
import struct
import threading
import time

from harness import Skip

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454ca, 2, 0x1000
QUEUE = 1000        # packets


class Farwire:
    """Between hosts a and b of a lab; delay in s, rate in bit/s. Their addresses on it are in .addr."""

    def __init__(self, lab, a, b, delay, rate, net=8):
        self.delay, self.rate = delay, rate
        self.taps = []
        self.addr = []
        self.end_r, self.end_w = os.pipe()
        for i, h in enumerate((a, b), 1):
            self.taps.append(h.do(self._tap))
            self.addr.append(f"10.0.{net}.{i}")
            h.ip("link set far0 up", f"addr add {self.addr[-1]}/24 dev far0")
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        lab.closing.append(self.close)

    @staticmethod
    def _tap():
        try:
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"far0", IFF_TAP | IFF_NO_PI))
        except OSError as e:
            raise Skip(f"no TAP devices: {e.strerror}") from None
        return fd

    def _run(self):
        waiting = {fd: collections.deque() for fd in self.taps}     # by where it came from: (due, packet)
        free_at = dict.fromkeys(self.taps, 0.0)
        other = dict(zip(self.taps, reversed(self.taps)))
        while True:
            now = time.monotonic()
            due = [q[0][0] for q in waiting.values() if q]
            ready, _, _ = select.select([*self.taps, self.end_r], [], [], max(0, min(due) - now) if due else None)
            if self.end_r in ready:
                return
            now = time.monotonic()
            for fd in ready:
                try:
                    while True:
                        packet = os.read(fd, 65536)
                        if len(waiting[fd]) < QUEUE:
                            free_at[fd] = max(free_at[fd], now) + len(packet) * 8 / self.rate
                            waiting[fd].append((free_at[fd] + self.delay, packet))
                except BlockingIOError:
                    pass
            for fd, q in waiting.items():
                while q and q[0][0] <= now:
                    try:
                        os.write(other[fd], q.popleft()[1])
                    except OSError:
                        pass        # the host is gone

    def close(self):
        os.write(self.end_w, b"x")
        self.thread.join()
        for fd in (*self.taps, self.end_r, self.end_w):
            os.close(fd)
