import tracemalloc
from typing import Any
from uuid import UUID

import msgspec
import pytest

from service.errors import InvalidToken
from service.keys import keyring
from service.keys.held import LoadedRing
from service.keys.keyring import Key, KeyRecord, KeyRing
from service.keys.signer import Signer, make_key
from service.tokens.cache import TokenCache
from service.tokens.claims import GuestClaims, parse
from service.tokens.service import TokenPolicy, TokenService
from tests.doubles import HandClock

NOW_S = 1_800_000_000.0
ISSUER = "https://guests.example"


class CountingSigner(Signer):
    """The real signer, which counts the signatures that it looks at."""

    def __init__(self, ring: KeyRing) -> None:
        super().__init__(ring)
        self.verified = 0

    def verify(self, raw_token: str) -> tuple[Key, bytes]:
        self.verified += 1
        return super().verify(raw_token)


class Source:
    """Keys whose ring a test may change."""

    def __init__(self, ring: KeyRing) -> None:
        self.change(ring)

    def change(self, ring: KeyRing) -> None:
        self.signer = CountingSigner(ring)
        self.loaded = LoadedRing(ring=ring, signer=self.signer, jwks=b"", etag="", max_lifetime_s=1_000)


def key(kid: str) -> KeyRecord:
    return keyring.new_key(make_key("ES256"), kid=kid, algorithm="ES256", max_lifetime_s=1_000, now_s=NOW_S)


def ring_key(kid: str) -> Key:
    return keyring.create(key(kid), ring_id="d", derivation_secret=b"s" * 32).keys[0]


@pytest.fixture
def clock() -> HandClock:
    return HandClock(NOW_S)


@pytest.fixture
def source() -> Source:
    return Source(keyring.create(key("k1"), ring_id="d", derivation_secret=b"s" * 32))


@pytest.fixture
def tokens(source: Source, clock: HandClock) -> TokenService:
    policy = TokenPolicy(
        issuers=(ISSUER,), audience=(), ttl_s=1_000, max_ttl_s=1_000, renew_after_s=100, max_token_bytes=3_800
    )
    return TokenService(
        policy, keys=source, clock=clock, random_bytes=lambda size: b"r" * size, observe=lambda _event: None
    )


async def reason(tokens: TokenService, raw_token: str, **arguments: Any) -> str | None:
    try:
        await tokens.verify(raw_token, **arguments)
    except InvalidToken as error:
        return error.reason
    return None


async def test_a_signature_is_looked_at_once(tokens: TokenService, source: Source) -> None:
    raw_token = (await tokens.issue(payload={"a": 1})).raw_token

    first, second = await tokens.verify(raw_token), await tokens.verify(raw_token)

    assert first == second
    assert source.signer.verified == 1


@pytest.mark.parametrize(("after_s", "expected"), [(9, None), (10, "expired"), (11, "expired")])
async def test_a_remembered_token_expires_to_the_second(
    tokens: TokenService, clock: HandClock, after_s: int, expected: str | None
) -> None:
    raw_token = (await tokens.issue(payload={}, ttl_s=10)).raw_token
    await tokens.verify(raw_token)

    clock.now_s += after_s

    assert await reason(tokens, raw_token) == expected


async def test_a_remembered_token_is_due_when_it_has_aged(tokens: TokenService, clock: HandClock) -> None:
    raw_token = (await tokens.issue(payload={})).raw_token
    assert not (await tokens.verify(raw_token)).refresh_due

    clock.now_s += 101

    assert (await tokens.verify(raw_token)).refresh_due


async def test_a_remembered_token_is_refused_for_another_audience(tokens: TokenService) -> None:
    raw_token = (await tokens.issue(payload={}, audience=["shop"])).raw_token

    assert await reason(tokens, raw_token, audience=["shop"]) is None
    assert await reason(tokens, raw_token, audience=["bank"]) == "wrong_audience"
    assert await reason(tokens, raw_token) is None


async def test_a_remembered_token_of_a_revoked_key_is_refused(tokens: TokenService, source: Source) -> None:
    raw_token = (await tokens.issue(payload={})).raw_token
    await tokens.verify(raw_token)

    source.change(keyring.revoke(source.loaded.ring, "k1", now_s=NOW_S))

    assert await reason(tokens, raw_token) == "revoked"


async def test_a_remembered_token_of_a_revoked_time_is_refused(
    tokens: TokenService, source: Source, clock: HandClock
) -> None:
    raw_token = (await tokens.issue(payload={})).raw_token
    await tokens.verify(raw_token)
    clock.now_s += 5

    source.change(keyring.revoke_before(source.loaded.ring, int(NOW_S) + 1, now_s=clock.now_s))

    assert await reason(tokens, raw_token) == "revoked"


async def test_a_remembered_token_of_a_ring_that_is_gone_is_unknown(tokens: TokenService, source: Source) -> None:
    raw_token = (await tokens.issue(payload={})).raw_token
    await tokens.verify(raw_token)

    source.change(keyring.create(key("k3"), ring_id="d", derivation_secret=b"s" * 32))

    assert await reason(tokens, raw_token) == "unknown_key"


@pytest.mark.parametrize("altered", ["{}x", " {}", "{} ", "{}.", "{}="])
async def test_what_only_resembles_a_remembered_token_is_refused(tokens: TokenService, altered: str) -> None:
    raw_token = (await tokens.issue(payload={})).raw_token
    await tokens.verify(raw_token)

    assert await reason(tokens, altered.format(raw_token)) == "malformed"


async def test_a_refused_token_is_not_remembered(tokens: TokenService, source: Source) -> None:
    raw_token = (await tokens.issue(payload={})).raw_token
    head, claims, signature = raw_token.split(".")
    forged = f"{head}.{claims}.{signature[::-1]}"

    assert {await reason(tokens, forged) for _ in range(3)} <= {"bad_signature", "malformed"}
    assert source.signer.verified == 3


@pytest.mark.parametrize("number", range(0, 256, 15))
async def test_a_guest_s_id_is_the_random_uuid_of_its_bytes(source: Source, clock: HandClock, number: int) -> None:
    raw = bytes((number * position + number) % 256 for position in range(1, 17))
    policy = TokenPolicy(issuers=(ISSUER,), audience=(), ttl_s=1, max_ttl_s=1, renew_after_s=1, max_token_bytes=3_800)
    tokens = TokenService(
        policy, keys=source, clock=clock, random_bytes=lambda size: raw[:size], observe=lambda _event: None
    )

    assert (await tokens.issue(payload={})).claims.subject == f"G-{UUID(bytes=raw, version=4)}"


CLAIMS = GuestClaims(ISSUER, "G-1", (), 1, 2, 1, "t", 1, {})
BODY = b"{}"


def test_tokens_in_use_outlast_many_others() -> None:
    memory = TokenCache(max_entries=64, max_bytes=1_000_000)
    found = ring_key("k1"), CLAIMS
    memory.put("in use", found, body=BODY)

    for number in range(100_000):
        memory.put(str(number), found, body=BODY)
        if number % 16 == 0:
            assert memory.find("in use") is found

    kept = [number for number in range(100_000) if memory.find(str(number)) is not None]
    assert 16 <= len(kept) <= 64


def test_a_token_beyond_the_bound_is_not_remembered() -> None:
    memory = TokenCache(max_entries=64, max_bytes=20_000)
    memory.put("small", (ring_key("k1"), CLAIMS), body=BODY)
    memory.put("large", (ring_key("k1"), CLAIMS), body=b"[" * 10_000)

    assert memory.find("large") is None
    assert memory.find("small") is not None


@pytest.mark.parametrize(
    "piece",
    [
        {"a": {"b": {"c": {}}}},
        [[], [], [[]]],
        {"name": "value", "other": [1.5, 2.5]},
        "x" * 300,
        "x" * 300 + "\N{GRINNING FACE}",
        [{"a": 1}, {"b": 1.5}],
        [12345, -12345, 10**15],
        {str(number): None for number in range(40)},
    ],
)
def test_memory_stays_within_its_bytes_whatever_the_payload(piece: object) -> None:
    bound_bytes = 2_000_000
    found_key = ring_key("k1")
    tracemalloc.start()
    try:
        memory = TokenCache(max_entries=100_000, max_bytes=bound_bytes)
        for number in range(3_000):
            made = GuestClaims(ISSUER, f"G-{number}", (), 1, 2, 1, "t", 1, {"a": piece, "b": [piece, piece]})
            body = msgspec.json.encode(made.to_json())
            memory.put(f"{number}." + "t" * len(body), (found_key, parse(msgspec.json.decode(body))), body=body)
        used_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert used_bytes <= bound_bytes
