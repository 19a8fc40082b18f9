"""How many new guests one client address may get: a token bucket for each, in memory that all workers share.

Of each client one time is kept, that at which its bucket will be full again (the generic cell rate algorithm of ITU-T
I.371). Knows addresses as text and no more.
"""

import ipaddress
import mmap
from collections.abc import Iterable, Sequence
from typing import Final

from service.keys import Clock

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

CLIENTS_REMEMBERED: Final = 65_536
"""Places in the table: 1 MiB, of which the kernel gives only what is touched. Some thousand clients that are short of
guests at the same moment are all remembered; of many more, one here and there is forgotten."""
_WAYS: Final = 8
"""Places that one client may have. Where all are taken, the client whose bucket is full first is forgotten."""
_CELL_BYTES: Final = 8


class ClientTable:
    """For each client, when its bucket is full again; shared by the processes forked from the one that made it.

    They use it without a lock: one that is killed must not leave it locked. Where two look at one place within the
    same microseconds, its client may get one guest more or less.
    """

    def __init__(self, *, clients: int = CLIENTS_REMEMBERED) -> None:
        """`clients` is a multiple of the places that one client may have."""
        cells = memoryview(mmap.mmap(-1, 2 * clients * _CELL_BYTES))
        self._sets = clients // _WAYS
        self._tags = cells[: clients * _CELL_BYTES].cast("q")
        self.full_at_s = cells[clients * _CELL_BYTES :].cast("d")
        """For each place, when its client's bucket is full again; 0, long ago, where nobody has it."""

    def place(self, client: str) -> int:
        """The client's place. One that has none takes, with a full bucket, that of the client whose is full first."""
        # 64 bits that nobody outside can foresee: Python's hash of a text is keyed, and forked workers share the key.
        tag = hash(client) or 1  # 0 marks a place that nobody has
        first = tag % self._sets * _WAYS
        places = range(first, first + _WAYS)
        place = next((place for place in places if self._tags[place] == tag), None)
        if place is None:
            place = min(places, key=self.full_at_s.__getitem__)
            self._tags[place], self.full_at_s[place] = tag, 0.0
        return place


class RateLimiter:
    """`rate_per_s` new guests on the long run for one client, a second's worth (at least one) at once; 0: no limit."""

    def __init__(self, rate_per_s: float, *, clock: Clock, clients: ClientTable | None = None) -> None:
        self._rate_per_s = rate_per_s
        self._burst = max(1.0, rate_per_s)
        self._clock = clock
        self._clients = clients or ClientTable()

    def allows(self, client: str) -> bool:
        """Takes one from the client's bucket, if there is one left."""
        if not self._rate_per_s:
            return True
        now_s, place = self._clock(), self._clients.place(client)
        missing = max(0.0, self._clients.full_at_s[place] - now_s) * self._rate_per_s
        # A clock set back must not lock a client out: no bucket is emptier than empty.
        missing = min(missing, self._burst)
        allowed = missing <= self._burst - 1
        self._clients.full_at_s[place] = now_s + (missing + (1 if allowed else 0)) / self._rate_per_s
        return allowed


def client_network(peer: str | None, *, forwarded_for: Iterable[str], trusted: Sequence[Network]) -> str:
    """The client that the limit counts: the last address that no trusted proxy reports as its own peer.

    `forwarded_for` are the `X-Forwarded-For` lines. One subscriber has an IPv4 address, or an IPv6 network of 64 bits.
    """
    hops = [hop.strip() for line in forwarded_for for hop in line.split(",")]
    address = _parse_address(peer or "")
    while hops and address is not None and any(address in network for network in trusted):
        address = _parse_address(hops.pop())
    if address is None:
        return "unknown"
    return str(address) if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))  # noqa: PLR2004


def _parse_address(text: str) -> Address | None:
    """An address as proxies write it: bare, in brackets, or with a port."""
    bare = text.partition("]")[0].lstrip("[") if text.startswith("[") else text
    bare = bare.partition(":")[0] if bare.count(":") == 1 else bare
    try:
        address = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address
