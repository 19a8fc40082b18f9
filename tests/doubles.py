"""What stands for the world in the tests of the keys: hand-moved clocks, a signer of no strength, a Redis in memory."""

import base64
import errno
import itertools
from typing import Any

from service.errors import InvalidToken
from service.keys import keyring
from service.keys.encryption import Sealer, make_secret
from service.keys.keyring import Algorithm, Key, KeyRing, KeyState
from service.keys.redis_store import RedisStore, parse_redis_url
from service.keys.signer import Signer

START_S = 1_800_000_000.25


class HandClock:
    """Tells the time that the test sets, in seconds."""

    def __init__(self, now_s: float = START_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class StubCodec(Signer):
    """A signer whose signature is the key's name."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    def sign(self, claims: bytes) -> str:
        return f"{self._ring.active.kid}.{claims.hex()}.x"

    def sign_access_token(self, claims: bytes) -> str:
        return f"{self._ring.active.kid}+access.{claims.hex()}.x"

    def verify(self, raw_token: str) -> tuple[Key, bytes]:
        kid, claims, _ = raw_token.split(".")
        key = next((key for key in self._ring.keys if key.kid == kid), None)
        if key is None:
            raise InvalidToken("unknown_key")
        if key.state is KeyState.REVOKED:
            raise InvalidToken("revoked")
        return key, bytes.fromhex(claims)


class BrokenCodec(StubCodec):
    """Signs what it cannot verify."""

    def verify(self, raw_token: str) -> tuple[Key, bytes]:
        key, claims = super().verify(raw_token)
        return key, claims + b" "


class MemoryRedis:
    """A client of redis-py, as far as `RedisStore` uses one, that can be made unavailable and looked into."""

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.available = True
        self.puts = 0
        self.founder: bytes | None = None
        self.closed = False

    async def getrange(self, name: str, start: int, end: int) -> bytes:
        self._reply()
        value = (self.founder if name.endswith(":founder") else self.content) or b""
        return value[start:] if end == -1 else value[start : end + 1]

    async def set(self, name: str, value: bytes, *, nx: bool = False, ex: int = 0, px: int = 0) -> bool:  # noqa: ARG002 - no claim in memory ends by itself
        self._reply()
        if name.endswith(":founder"):
            taken = nx and self.founder is not None
            self.founder = self.founder if taken else None if px == 1 else value
            return not taken
        self.content = value
        self.puts += 1
        return True

    async def aclose(self) -> None:
        self.closed = True

    def _reply(self) -> None:
        if not self.available:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "hunter2")


def memory_store(redis: MemoryRedis, *secrets: str) -> RedisStore:
    """The store of the keyring's copy over a server in memory."""
    address = parse_redis_url("redis://memory")
    return RedisStore(address, Sealer(secrets or [make_secret()]), connect=lambda _address, **_options: redis)


_numbers = itertools.count(1)


def make_stub_key(algorithm: Algorithm) -> dict[str, Any]:
    """A private JWK of the right shape and of no use, different each time."""
    number = next(_numbers)
    if algorithm == "RS256":
        return {"kty": "RSA"} | {name: f"{name}{number}" for name in ("n", "e", "d", "p", "q", "dp", "dq", "qi")}
    return {"kty": "EC", "crv": "P-256", "x": _coordinate(number), "y": _coordinate(number + 1), "d": "secret-d"}


def _coordinate(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()


def make_test_key(kid: str, *, now_s: float, max_lifetime_s: int = 1_000, algorithm: Algorithm = "ES256") -> Key:
    return keyring.new_key(
        make_stub_key(algorithm), kid=kid, algorithm=algorithm, max_lifetime_s=max_lifetime_s, now_s=now_s
    )


def make_test_ring(kid: str = "a", *, now_s: float, max_lifetime_s: int = 1_000) -> KeyRing:
    return keyring.found(
        make_test_key(kid, now_s=now_s, max_lifetime_s=max_lifetime_s),
        ring_id="deployment-1",
        derivation_secret=b"s" * 32,
        now_s=now_s,
    )
