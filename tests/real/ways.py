"""The ways to link the two ends of a connection, and what must come of each."""
from harness import Timeout, wait_for


class Way:
    """column: its name in the table; server, client: which binary; link: ROAM_LINK."""

    def __init__(self, column, server, client, link):
        self.column, self.server, self.client, self.link = column, server, client, link

    def both(self):
        return self.server == self.client == "roam"

    def env(self, case, **changes):
        return case.environ(ROAM_LINK=self.link, **changes)

    def wait(self, servers, clients, n, seconds=10):
        """Until n connections have got as far as they should, on both ends."""
        if not self.both():
            return
        for procs in (servers, clients):
            wait_for(lambda p=procs: len(self.arrived(p)) >= n or
                     procs is clients and not all(c.alive() for c in p), seconds,
                     f"{n} connections of {procs[0].label} to be {self.column}")

    def arrived(self, procs):
        """The connections that were upgraded, and are on a ring if this is the way."""
        found = set()
        for p in procs:
            up = p.connections("upgraded")
            if self.link == "ring":
                up &= {cid for event in ("moved", "resumed")
                       for cid, rest in p.events(event) if "link=ring" in rest}
            found |= up
        return found

    def verify(self, case, servers, clients, n):
        """A result counts only when the connections were what the column says."""
        if self.both():
            for procs in (servers, clients):
                # One end is done before the other has written its line.
                try:
                    wait_for(lambda p=procs: len(self.arrived(p)) >= n, 2, "the log")
                except Timeout:
                    pass
                got = len(self.arrived(procs))
                case.check(got >= n, f"{self.column}: {got} connections of {procs[0].label} "
                                     f"were, not {n}: the result means nothing")
        for p in [*servers, *clients]:
            if not self.both():
                case.check(not p.events("upgraded"), f"{p.label} was upgraded with a plain end")
            if self.link == "tcp":
                case.check(not any("link=ring" in rest for _, rest in p.events("moved")),
                           f"{p.label} was on a ring with ROAM_LINK=tcp")
            for event in ("demoted", "ended"):
                odd = [rest for _, rest in p.events(event)
                       if "reason=gone" not in rest and "reason=closed" not in rest]
                case.check(not odd, f"{p.label}: {event} {odd[:1]}")


UNWRAPPED = Way("unwrapped", "plain", "plain", "tcp")
PLAIN_CLIENT = Way("plain client", "roam", "plain", "auto")
PLAIN_SERVER = Way("plain server", "plain", "roam", "auto")
PERSISTENT = Way("persistent", "roam", "roam", "tcp")
RING = Way("ring", "roam", "roam", "ring")
ALL = [UNWRAPPED, PLAIN_CLIENT, PLAIN_SERVER, PERSISTENT, RING]
