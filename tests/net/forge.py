"""Messages made by hand: what a stranger, or somebody who listens, could send.

The layouts are those of lib/wire.def, so this cannot drift from it.
"""
import hashlib
import os
import socket
import struct
import threading

import lists

MAGIC, VERSION = b"roam", 1
_SIZES = {"U8": 1, "U16": 2, "U32": 4, "U64": 8, "B16": 16, "B32": 32}
MESSAGES = {name: (nr, keyed, fields) for name, nr, keyed, fields in lists.messages()}
REASONS = {word: nr for _, nr, word, _ in lists.reasons()}
ACCEPTOR, MOVED = 2, 8


def encode(name, key=None, **values):
    """One message; a keyed one gets a MAC under key (or under a random one)."""
    nr, keyed, fields = MESSAGES[name]
    body = b""
    for kind, field in fields:
        v = values.pop(field, 0)
        body += bytes(v).ljust(_SIZES[kind], b"\0") if isinstance(v, bytes) \
            else v.to_bytes(_SIZES[kind], "little")
    assert not values, f"{name} has no {values}"
    n = 8 + len(body) + (16 if keyed else 0)
    out = MAGIC + struct.pack("<BBH", VERSION, nr, n) + body
    if keyed:
        out += hashlib.blake2b(out, digest_size=16, key=key or os.urandom(32)).digest()
    return out


def decode(buf):
    """(name, fields) of one message, its MAC unchecked; None when it is none."""
    if len(buf) < 8 or buf[:4] != MAGIC or buf[4] != VERSION:
        return None
    nr, n = buf[5], struct.unpack_from("<H", buf, 6)[0]
    for name, (number, keyed, fields) in MESSAGES.items():
        if number != nr:
            continue
        size = 8 + sum(_SIZES[k] for k, _ in fields) + (16 if keyed else 0)
        if n != size or len(buf) < size:
            return None
        out, at = {}, 8
        for kind, field in fields:
            raw = buf[at:at + _SIZES[kind]]
            out[field] = raw if kind[0] == "B" else int.from_bytes(raw, "little")
            at += _SIZES[kind]
        return name, out
    return None


class Sniffer:
    """Copies of the segments to a port that pass the router, with their data."""

    def __init__(self, router, port):
        self.port = port
        self.seen = []          # (source, destination, data)
        self.stop = False
        self.socket = router.do(self._open)
        self.socket.settimeout(0.05)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    @staticmethod
    def _open():
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))

    def _run(self):
        while not self.stop:
            try:
                frame = self.socket.recv(70000)
            except TimeoutError:
                continue
            except OSError:
                return
            ip = frame[14:]
            if len(ip) < 40 or ip[0] >> 4 != 4 or ip[9] != socket.IPPROTO_TCP:
                continue
            total = struct.unpack_from("!H", ip, 2)[0] or len(ip)
            tcp = ip[(ip[0] & 15) * 4:total]
            data = tcp[(tcp[12] >> 4) * 4:]
            if data and struct.unpack_from("!H", tcp, 2)[0] == self.port:
                self.seen.append((socket.inet_ntoa(ip[12:16]), socket.inet_ntoa(ip[16:20]),
                                  bytes(data)))

    def messages(self, name):
        """Segments that begin with such a message: (destination, data, fields)."""
        found = []
        for _, to, data in list(self.seen):
            m = decode(data)
            if m and m[0] == name:
                found.append((to, data, m[1]))
        return found

    def close(self):
        self.stop = True
        self.thread.join(2)
        self.socket.close()


def tell(host, to, data, answer=True, port=7626, seconds=3):
    """Sends that to an agent's port from a host; what comes back until the end."""
    def go():
        with socket.create_connection((to, port), timeout=seconds) as s:
            s.settimeout(seconds)
            s.sendall(data)
            got = b""
            try:
                while answer and (part := s.recv(4096)):
                    got += part
            except OSError:
                pass
            return got
    return host.do(go)
