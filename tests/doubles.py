"""What stands for the world in the tests of the keys: hand-moved clocks, and a Redis in memory."""

import errno
from functools import cache
from typing import Any

from redis.exceptions import ResponseError

from service.keys import keyring
from service.keys.encryption import Sealer, make_secret
from service.keys.keyring import KeyRecord, KeyRing
from service.keys.material import Algorithm
from service.keys.redis_store import RedisStore, parse_redis_url
from service.keys.signer import make_key

START_S = 1_800_000_000.25


class HandClock:
    """Shows the time that the test sets, in seconds."""

    def __init__(self, now_s: float = START_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class MemoryRedis:
    """A client of redis-py, as far as `RedisStore` uses one, that can be made unavailable and looked into."""

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.available = True
        self.puts = 0
        self.founder: bytes | None = None
        self.closed = False
        self.full = False

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
        if self.full:
            raise ResponseError("OOM command not allowed")
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


def make_test_key(kid: str, *, now_s: float, max_lifetime_s: int = 1_000, algorithm: Algorithm = "ES256") -> KeyRecord:
    return keyring.new_key(
        make_test_material(algorithm), kid=kid, algorithm=algorithm, max_lifetime_s=max_lifetime_s, now_s=now_s
    )


def make_test_material(algorithm: Algorithm, *, rsa_bits: int = 2_048) -> dict[str, Any]:
    """A real private JWK; of RS256 the same one each time, as one takes a while to make."""
    return make_key(algorithm) if algorithm == "ES256" else _rsa_key(rsa_bits)


@cache
def _rsa_key(bits: int) -> dict[str, Any]:
    return make_key("RS256", rsa_bits=bits)


def make_test_ring(
    kid: str = "a", *, now_s: float, max_lifetime_s: int = 1_000, ring_id: str = "deployment-1"
) -> KeyRing:
    key = make_test_key(kid, now_s=now_s, max_lifetime_s=max_lifetime_s)
    return keyring.create(key, ring_id=ring_id, derivation_secret=b"s" * 32)
