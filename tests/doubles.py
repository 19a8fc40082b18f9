"""What stands for the world in the tests of the keys: hand-moved clocks, a codec of no strength, a cache in memory."""

import asyncio
import base64
import itertools
from collections.abc import AsyncGenerator
from typing import Any

from service.errors import CacheUnavailable, InvalidToken
from service.keys import keyring
from service.keys.keyring import Algorithm, Key, KeyRing, KeyState

START_S = 1_800_000_000.25


class HandClock:
    """Tells the time that the test sets, in seconds."""

    def __init__(self, now_s: float = START_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class StubCodec:
    """A `ports.TokenCodec` whose signature is the key's name."""

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


class MemoryCache:
    """A `ports.KeyCache` that can be made unavailable, and whose content a test may set."""

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.available = True
        self.puts = 0
        self.founder: bytes | None = None
        self.closed = False
        self._word = asyncio.Condition()

    def _answer(self) -> None:
        if not self.available:
            raise CacheUnavailable("The cache is gone.")

    async def get(self) -> bytes | None:
        self._answer()
        return self.content

    async def put(self, sealed: bytes) -> None:
        self._answer()
        self.content = sealed
        self.puts += 1
        async with self._word:
            self._word.notify_all()

    async def claim(self, founder: bytes) -> bool:
        self._answer()
        self.founder = self.founder or founder
        return self.founder == founder

    async def release(self, founder: bytes) -> None:
        self._answer()
        if self.founder == founder:
            self.founder = None

    async def changes(self) -> AsyncGenerator[None, None]:
        while True:
            yield
            async with self._word:
                await self._word.wait()

    async def close(self) -> None:
        self.closed = True


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
