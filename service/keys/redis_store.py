"""The sealed copy of the ring in Redis: the only import of `redis`. It may be missing, late or wrong at any time.

| form of the address | |
| --- | --- |
| `redis://[USER:PASSWORD@]HOST[:PORT][/DB]` | TCP |
| `rediss://…` | TCP with TLS |
| `unix://[USER:PASSWORD@]/PATH[?db=DB]` | a socket on this machine |
| `redis+sentinel://[USER:PASSWORD@]HOST[:PORT],…/NAME[/DB]` | the master NAME, as its sentinels know it |
| `redis+cluster://[USER:PASSWORD@]HOST[:PORT],…` | a cluster, by some of its nodes |

`rediss+sentinel` and `rediss+cluster` use TLS throughout. Options follow `?`: `db`; with TLS `ssl_ca_certs`,
`ssl_certfile`, `ssl_keyfile` (files) and `ssl_check_hostname` (`true` or `false`); `sentinel_username` and
`sentinel_password`. User, password, path and options may be percent-encoded.

Every call ends within its timeout, and whatever goes wrong in it is `CacheUnavailable`. Messages are this module's own
words: text of the client, of the server or of the URL parser may repeat a password.
"""

import asyncio
import contextlib
import errno
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.errors import CacheUnavailable
from service.keys import encoding
from service.keys.encryption import Sealer
from service.keys.keyring import KeyRing

PREFIX: Final = "guest-sessions:"
"""Of every name in Redis (GUEST_REDIS_PREFIX): two deployments that share one Redis need two."""

TIMEOUT_S: Final = 1.5
"""For one call, connecting included: with a poll every second, a change is still seen soon after a stall."""
CLAIM_S: Final = 30
"""Longer than it takes to make a key and write it to disk; a claimant that was killed delays the others by so long."""
MAX_VALUE_BYTES: Final = 4 * 2**20
"""Several times a full ring of RSA keys; a longer value is cut there, and so is found damaged."""
NO_BYTES: Final = b"no bytes at all"
"""Stands for a reply, or a value, of another type; it opens as little as any other garbage."""

T = TypeVar("T")

_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
"""Before the +, redis-py's scheme for credentials and options; behind it, the kind of server."""
_TLS_OPTIONS: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"})
_SENTINEL_OPTIONS: Final = frozenset({"sentinel_username", "sentinel_password"})
_MAX_DB_DIGITS: Final = 5
"""Far above any server's databases."""


# --- the address ---


class RedisAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where Redis is. `options` are redis-py's, password included; neither `str` nor `repr` shows them.

    `kind`: `single`, `sentinel` or `cluster`.
    """

    kind: str
    nodes: tuple[tuple[str, int], ...] = ()
    socket: str | None = None
    service: str = ""
    options: dict[str, Any]

    def __repr__(self) -> str:
        return f"RedisAddress({self})"

    def __str__(self) -> str:
        """The address for people, without its secrets."""
        nodes = self.socket or ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.nodes
        )
        return f"{self.kind} {nodes}" + (f" {self.service}" if self.service else "")


def parse_redis_url(text: str) -> RedisAddress:
    """The address in one of the forms above; redis-py reads credentials and options, which it does not check.

    Raises:
        ValueError: for any other text; the message repeats no part of it, as each may be a secret in the wrong place.
    """
    try:
        url = urlsplit(text)
        given = dict(parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query)))
    except ValueError:
        raise ValueError(
            "is no URL; percent-encode special characters in a password, and write options as NAME=VALUE"
        ) from None
    if url.scheme not in _SCHEMES:
        raise ValueError(f"must start with one of: {', '.join(f'{scheme}://' for scheme in _SCHEMES)}")
    base, _, kind = url.scheme.partition("+")
    kind = kind or "single"
    tls, sentinel = base == "rediss", kind == "sentinel"
    allowed = {"db"} | (_TLS_OPTIONS if tls else set()) | (_SENTINEL_OPTIONS if sentinel else set())
    if not given.keys() <= allowed:
        raise ValueError(f"has an unknown option; {url.scheme}:// takes {', '.join(sorted(allowed))}")
    if given.get("ssl_check_hostname", "true") not in ("true", "false"):
        raise ValueError("has an ssl_check_hostname that is neither true nor false")
    if "#" in text:
        raise ValueError("must not have a #; write %23 where it belongs to a password")
    credentials, _, hosts = url.netloc.rpartition("@")
    nodes: tuple[tuple[str, int], ...] = ()
    path, socket = url.path, None
    if base == "unix":
        if hosts or not path.startswith("/") or path == "/":
            raise ValueError("must name the socket by its full path: unix:///PATH")
        path, socket = "", unquote(path)
    else:
        nodes = tuple(_node(host, 26379 if sentinel else 6379) for host in hosts.split(","))
    service, db = _service_and_db(path, kind, given.get("db"))
    if kind == "single" and len(nodes) > 1:
        raise ValueError("must name one host; several are for redis+sentinel:// and redis+cluster://")
    options: dict[str, Any] = {**parse_url(f"{base}://{credentials}@?{url.query}"), "db": db}
    options.pop("connection_class", None)
    if tls:
        options["ssl"] = True
    return RedisAddress(kind=kind, nodes=nodes, socket=socket, service=service, options=options)


def _service_and_db(path: str, kind: str, option: str | None) -> tuple[str, int]:
    parts = [unquote(part) for part in path.split("/")[1:] if part]
    service = parts.pop(0) if kind == "sentinel" and parts else ""
    if kind == "sentinel" and not service:
        raise ValueError("must name the master: redis+sentinel://HOST:PORT,HOST:PORT/NAME")
    if len(parts) > 1 or (parts and option is not None):
        raise ValueError("has a path that is not understood; at most one database number follows the hosts")
    db = option or (parts[0] if parts else "0")
    if not (db.isascii() and db.isdigit() and len(db) <= _MAX_DB_DIGITS):
        raise ValueError("has a database that is not a number")
    if kind == "cluster" and int(db):
        raise ValueError("must not name a database: a cluster has only number 0")
    return service, int(db)


def _node(text: str, default_port: int) -> tuple[str, int]:
    try:
        url = urlsplit(f"//{text}")
        host, port = url.hostname, url.port
    except ValueError:
        raise ValueError("has a host or port that is not understood") from None
    if not host or url.path:
        raise ValueError("must name a host")
    return host, default_port if port is None else port


def connect(address: RedisAddress, *, timeout_s: float) -> Any:
    """A client of redis-py for the address; connects when first used."""
    options = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 1),  # once: an idle connection may have been closed by the server
        "protocol": 2,
        **address.options,
    }
    sentinel_auth = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    if address.kind == "cluster":
        del options["db"]
        return RedisCluster(startup_nodes=[ClusterNode(host, port) for host, port in address.nodes], **options)
    if address.kind == "sentinel":
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            address.nodes, sentinel_kwargs={**options, **sentinel_auth, "db": 0}, **options
        )
        return sentinel.master_for(address.service)
    if address.socket is not None:
        return Redis(unix_socket_path=address.socket, **options)
    ((host, port),) = address.nodes
    return Redis(host=host, port=port, **options)


# --- the copy ---


class RedisStore:
    """The ring under one name in Redis, sealed; beside it the claim to make a deployment's first ring."""

    def __init__(
        self,
        address: RedisAddress,
        sealer: Sealer,
        *,
        prefix: str = PREFIX,
        timeout_s: float = TIMEOUT_S,
        connect: Callable[..., Any] = connect,
    ) -> None:
        self._address = address
        self._sealer = sealer
        self._ring_name = f"{prefix}keyring"
        self._claim_name = f"{prefix}keyring:founder"
        self._timeout_s = timeout_s
        self._connect = connect
        self._client: Any = None
        self.sealed_with: Literal["first", "other"] | None = None
        """Which of the secrets seals the ring last got or put; None before."""
        self._last: tuple[bytes, KeyRing] | None = None
        self._was_current = False

    async def get(self) -> KeyRing | None:
        """The ring, None where there is none.

        Raises:
            CacheUnavailable: Redis does not reply as it should.
            KeyringDamaged, WrongSecret: its value cannot be opened; a plain ring is refused as well.
        """
        sealed = await self.get_sealed()
        if sealed is None:
            return None
        if self._last is None or self._last[0] != sealed:
            self._last = (sealed, encoding.from_jwk_set(self._sealer.open(sealed)))
            self.sealed_with = "first" if self._sealer.is_current(sealed) else "other"
            self._was_current |= self.sealed_with == "first"
        return self._last[1]

    async def put(self, ring: KeyRing) -> None:
        """Stores the ring, sealed with the first secret; raises `CacheUnavailable`."""
        sealed = self._sealer.seal(encoding.to_jwk_set(ring))
        await self.put_sealed(sealed)
        self._last, self.sealed_with, self._was_current = (sealed, ring), "first", True

    @property
    def needs_sealing(self) -> bool:
        """Whether the copy is under a secret that is not the first, and never was since the start; see `FileStore`."""
        return not self._was_current

    async def get_sealed(self) -> bytes | None:
        """The bytes, at most `MAX_VALUE_BYTES` of them; None where there are none."""
        try:
            value = await self._call(lambda redis: redis.getrange(self._ring_name, 0, MAX_VALUE_BYTES))
        except _WrongTypeError:
            return NO_BYTES
        return (value or None) if isinstance(value, bytes) else NO_BYTES

    async def put_sealed(self, sealed: bytes) -> None:
        """Stores the bytes."""
        await self._call(lambda redis: redis.set(self._ring_name, sealed))

    async def clock_s(self) -> float:
        """Unix seconds by the server's clock."""
        reply = await self._call(lambda redis: redis.time())
        seconds, microseconds = next(iter(reply.values())) if isinstance(reply, dict) else reply
        return float(seconds) + float(microseconds) / 1e6

    async def claim(self, claimant: bytes) -> bool:
        """True for one claimant in `CLAIM_S`, again and again: it alone may make a deployment's first ring."""
        if await self._call(lambda redis: redis.set(self._claim_name, claimant, nx=True, ex=CLAIM_S)):
            return True
        return await self._has_claim(claimant)

    async def release(self, claimant: bytes) -> None:
        """Ends the claim of this claimant at once; with the rights that a claim needs, which deleting is not among."""
        if await self._has_claim(claimant):
            await self._call(lambda redis: redis.set(self._claim_name, claimant, px=1))

    async def _has_claim(self, claimant: bytes) -> bool:
        return bool(await self._call(lambda redis: redis.getrange(self._claim_name, 0, -1)) == claimant)

    async def close(self) -> None:
        """Closes all connections."""
        if self._client is None:
            return
        pool = getattr(self._client, "connection_pool", None)
        sentinels = getattr(getattr(pool, "sentinel_manager", None), "sentinels", ())
        for client in (self._client, *sentinels):
            with contextlib.suppress(CacheUnavailable):
                await self._call(lambda _, client=client: client.aclose())  # type: ignore[misc]
        self._client = None

    async def _call(self, command: Callable[[Any], Awaitable[T]]) -> T:
        """The reply, or `CacheUnavailable` within the timeout.

        The client calls `asyncio.wait_for`, which up to Python 3.11 loses a cancellation that arrives together with the
        reply (python/cpython#86296); the process could then never end. So a lost one is raised again.
        """
        task = asyncio.current_task()
        cancelled = 0 if task is None else task.cancelling()
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._client is None:
                    self._client = self._connect(self._address, timeout_s=self._timeout_s)
                return await command(self._client)
        except Exception as error:
            # A server that lies makes the client raise nearly anything; all of it means the same, and none may pass.
            if isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE"):
                raise _WrongTypeError(f"Redis ({self._address}) holds something else under the ring's name.") from error
            raise CacheUnavailable(f"Redis ({self._address}) {_reason(error)}.") from error
        finally:
            if task is not None and task.cancelling() > cancelled:
                raise asyncio.CancelledError


class _WrongTypeError(CacheUnavailable):
    """Something else is stored under the ring's name."""


_REFUSALS: Final = {
    "NOAUTH": "refused: it wants a password",
    "WRONGPASS": "refused the user name or password",
    "NOPERM": "refused: the user has no permissions for this command or name",
    "LOADING": "is loading its data",
    "READONLY": "refused: it is a read-only replica",
    "OOM": "refused: its memory is full",
    "MISCONF": "refused: it cannot write to its disk",
    "CLUSTERDOWN": "refused: the cluster is down",
}
"""What the error codes mean that a reply may start with; the rest of a reply may quote what was sent."""


def _reason(error: BaseException) -> str:
    """What went wrong, by the codes and kinds of the errors alone; their text may hold a password."""
    cause: BaseException | None = error
    while cause is not None:
        # redis-py cuts the code off the text where it knows it.
        code = getattr(cause, "status_code", None) or str(cause).split(" ", 1)[0]
        if code in _REFUSALS:
            return _REFUSALS[code]
        for kinds, reason in _KINDS.items():
            if isinstance(cause, kinds):
                return reason
        if isinstance(cause, OSError) and cause.errno in errno.errorcode:
            return f"cannot be reached: {os.strerror(cause.errno or 0)}"
        cause = cause.__cause__ or cause.__context__
    return f"cannot be used: {type(error).__name__}"


_KINDS: Final[dict[tuple[type[Exception], ...], str]] = {
    (AuthenticationError,): "refused the user name or password",
    (ssl.SSLCertVerificationError,): "has a certificate that is not trusted",
    (TimeoutError, RedisTimeoutError): "did not reply in time",
}
