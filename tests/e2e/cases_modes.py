"""Every way to wait for a socket, under repeated breaks of both kinds."""
import functools

from programs import (MODES, bulk_recv, bulk_send, check_bulk, check_echo,
                      check_resumed, echo_client, echo_server, wait_upgraded)

# Unlike pairs find what alike pairs hide: one end that never sleeps in recv,
# one that is told once only.
MIXED = [("blocking", "epoll-et"), ("epoll-et", "blocking"),
         ("select", "epoll-oneshot"), ("epoll-oneshot", "poll"),
         ("poll", "epoll")]


def echo(case, client_mode, server_mode, how):
    case.need(how)
    s = echo_server(case, mode=server_mode)
    c = echo_client(case, s, mode=client_mode)
    wait_upgraded(c, s.proc)
    # Killed to the very end: a link that dies after the last byte has ended well.
    # A rule that eats the last FIN leaves the other end waiting, as TCP would.
    b = case.breaker([s.proc, c], how=how, until=c, half_closed=how == "kill",
                     count=0 if how == "kill" else 5)
    check_echo(case, s, c)
    check_resumed(case, case.breaks_of(b), [s.proc, c], at_least=2)


def bulk(case, client_mode, server_mode, how):
    case.need(how)
    # A reset rule bites only when a packet passes, and stands for a while:
    # fewer breaks a second, so a longer transfer.
    size, at_least = ("40M", 6) if how == "kill" else ("40M", 1)
    s = bulk_recv(case, mode=server_mode, size="80M", args=["-s", "16k"])
    c = bulk_send(case, s, mode=client_mode, size=size, rate=20, duplex=True)
    wait_upgraded(c, s.proc)
    # The unpaced direction ends early: its half-closed rest is broken as well.
    # But not to the end: after an exit there is nobody to send again.
    b = case.breaker([s.proc, c], how=how, until=c, half_closed=True,
                     count=12 if how == "kill" else 4)
    check_bulk(case, s, [c], duplex=True)
    check_resumed(case, case.breaks_of(b), [s.proc, c], at_least=at_least)


def small_calls(case):
    """Few bytes in each call: the cut falls between and inside many of them."""
    case.need("both")
    s = bulk_recv(case, mode="epoll", size="4M", args=["-s", "37"])
    c = bulk_send(case, s, mode="epoll-et", size="2M", rate=2, duplex=True,
                  args=["-s", "101"])
    wait_upgraded(c, s.proc)
    b = case.breaker([s.proc, c], how="both", interval="2:15", until=c)
    check_bulk(case, s, [c], duplex=True)
    check_resumed(case, case.breaks_of(b), [s.proc, c], at_least=2)


def rapid(case, mode):
    """The next break falls into the repair of the one before."""
    case.need("kill")
    s = bulk_recv(case, mode=mode, size="48M")
    c = bulk_send(case, s, mode=mode, size="16M", rate=16, duplex=True)
    wait_upgraded(c, s.proc)
    b = case.breaker([s.proc, c], interval="0:2", until=c, half_closed=True,
                     count=120)
    check_bulk(case, s, [c], duplex=True)
    check_resumed(case, case.breaks_of(b), [s.proc, c], share=0.2, at_least=10)


def half_closed(case, mode):
    """One direction has ended; its end must be neither lost nor seen twice."""
    case.need("kill")
    s = bulk_recv(case, mode=mode, size="64k")
    c = bulk_send(case, s, mode=mode, size="12M", rate=12, duplex=True)
    wait_upgraded(c, s.proc)
    b = case.breaker([s.proc, c], until=c, half_closed=True)
    check_bulk(case, s, [c], duplex=True)
    check_resumed(case, case.breaks_of(b), [s.proc, c], at_least=3)


def idle(case):
    """A break while nothing is under way; the next message must find its way."""
    case.need("kill")
    s = echo_server(case, mode="epoll")
    c = echo_client(case, s, mode="blocking", messages=12, every_ms=150,
                    window=1)
    wait_upgraded(c, s.proc)
    b = case.breaker([s.proc, c], interval="40:90", until=c)
    check_echo(case, s, c)
    check_resumed(case, case.breaks_of(b), [s.proc, c], at_least=3)


def cases(_args):
    out = []
    for a, b in [(m, m) for m in MODES] + MIXED:
        for how in ("kill", "nft"):
            out.append((f"echo {a} to {b}, breaks by {how}", 40,
                        functools.partial(echo, client_mode=a, server_mode=b,
                                          how=how)))
            out.append((f"bulk {a} to {b}, both ways, breaks by {how}", 40,
                        functools.partial(bulk, client_mode=a, server_mode=b,
                                          how=how)))
    out.append(("bulk in very small calls, breaks of both kinds", 40, small_calls))
    for m in ("blocking", "epoll-et"):
        out.append((f"breaks during the repair, {m}", 40,
                    functools.partial(rapid, mode=m)))
    for m in ("blocking", "epoll-et"):
        out.append((f"breaks of a half-closed connection, {m}", 40,
                    functools.partial(half_closed, mode=m)))
    out.append(("breaks of an idle connection", 40, idle))
    return out
