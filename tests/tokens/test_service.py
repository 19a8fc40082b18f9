"""Issuing, access tokens and audiences, against the real signer and a hand-moved clock."""

import asyncio
from typing import Any

import jwt
import msgspec
import pytest

from service.errors import InvalidRequest, InvalidToken
from service.keys import keyring
from service.keys.material import Algorithm
from service.merge.presets import SHIPPED
from tests.doubles import HandClock, make_test_key
from tests.merge.test_refresh import NOW_S, Shop


@pytest.fixture
def clock() -> HandClock:
    return HandClock(NOW_S)


@pytest.fixture
def shop(clock: HandClock) -> Shop:
    return Shop(clock, access_ttl_s=300)


def public_key(shop: Shop) -> jwt.PyJWK:
    (key,) = shop.source.loaded.ring.keys
    return jwt.PyJWK(keyring.public_jwk(key))


async def access(shop: Shop, raw_token: str, **arguments: Any) -> dict[str, Any]:
    verified = await shop.tokens.verify(raw_token)
    made = await shop.tokens.access_token(verified, **arguments)
    claims = jwt.decode(
        made.raw_token,
        public_key(shop),
        algorithms=["ES256"],
        options={"verify_exp": False, "verify_iat": False, "verify_aud": False},
    )
    assert (made.issued_at_s, made.expires_at_s) == (claims["iat"], claims["exp"])
    assert jwt.get_unverified_header(made.raw_token)["typ"] == "at+jwt"
    return dict(claims)


async def test_an_access_token_says_who_the_guest_is_and_no_more(shop: Shop) -> None:
    raw_token = await shop.issue({"cart": ["tea"]}, subject="G-1", extra_claims={"x": 1})

    claims = await access(shop, raw_token, audience=["orders"])

    assert claims.pop("jti")
    assert claims == {
        "iss": "https://guests.example",
        "sub": "G-1",
        "aud": "orders",
        "iat": int(NOW_S),
        "exp": int(NOW_S) + 300,
        "ver": 1,
        "client_id": "guest-sessions",
    }


async def test_an_access_token_has_the_payload_where_it_is_asked_for(shop: Shop) -> None:
    raw_token = await shop.issue({"cart": ["tea"]})

    claims = await access(shop, raw_token, audience=["a", "b", "a"], with_payload=True)

    assert (claims["payload"], claims["aud"]) == ({"cart": ["tea"]}, ["a", "b"])


async def test_an_access_token_never_outlives_its_guest_token(shop: Shop, clock: HandClock) -> None:
    raw_token = await shop.issue({}, ttl_s=200)
    clock.now_s += 50.9

    claims = await access(shop, raw_token, audience=["orders"])

    assert claims["exp"] == int(NOW_S) + 200


async def test_an_access_token_is_a_guest_token_nowhere(shop: Shop) -> None:
    verified = await shop.tokens.verify(await shop.issue({}))
    made = await shop.tokens.access_token(verified, audience=["orders"], with_payload=True)

    with pytest.raises(InvalidToken) as refused:
        await shop.tokens.verify(made.raw_token)
    assert refused.value.reason == "unknown_key"
    merged = await shop.merges.merge([made.raw_token], session={}, policy=SHIPPED["default"])
    assert [each.reason for each in merged.skipped] == ["unknown_key"]


async def test_a_guest_that_began_elsewhere_keeps_its_time(shop: Shop) -> None:
    imported = await shop.tokens.issue(payload={"a": 1}, subject="old-7", first_issued_at_s=1_500_000_000)
    again = await shop.tokens.issue(payload={"a": 1}, subject="old-7", first_issued_at_s=1_500_000_000)

    assert imported.claims.first_issued_at_s == 1_500_000_000
    assert imported.claims.issued_at_s == int(NOW_S)
    assert imported.claims.lineage == again.claims.lineage


@pytest.mark.parametrize(
    ("subject", "first_issued_at_s", "faults"),
    [
        (None, 1_500_000_000, ["needs a subject beside it: it is for a guest that is imported"]),
        ("old-7", int(NOW_S) + 1, ["is in the future"]),
        ("old-7", 999, ["is before the time from which guests are good: they were revoked"]),
        (None, int(NOW_S) + 1, ["needs a subject beside it: it is for a guest that is imported", "is in the future"]),
    ],
    ids=["without a subject", "in the future", "before the revocation time", "two faults"],
)
async def test_a_guest_cannot_have_begun_at_any_time(
    shop: Shop, subject: str | None, first_issued_at_s: int, faults: list[str]
) -> None:
    shop.source.change(msgspec.structs.replace(shop.source.loaded.ring, revoked_before_s=1_000))

    with pytest.raises(InvalidRequest) as refused:
        await shop.tokens.issue(payload={}, subject=subject, first_issued_at_s=first_issued_at_s)

    assert [(each.path, each.message) for each in refused.value.errors] == [
        ("/first_issued_at", each) for each in faults
    ]


KEY = "a-visitors-own-random-key"


async def test_an_idempotency_key_gives_one_lineage_however_many_seconds_apart(shop: Shop, clock: HandClock) -> None:
    first = await shop.tokens.issue(payload={"a": 1}, idempotency_key=KEY)
    clock.now_s += 7
    second = await shop.tokens.issue(payload={"b": 1}, idempotency_key=KEY)
    other = await shop.tokens.issue(payload={}, idempotency_key=f"{KEY}2")

    assert first.claims.subject == second.claims.subject != other.claims.subject
    assert first.claims.lineage == second.claims.lineage == (first.claims.subject,)
    assert first.claims.subject[16:17] == "8"
    assert second.claims.first_issued_at_s == int(NOW_S) + 7


@pytest.mark.parametrize(
    ("since_s", "audience", "demanded", "reason"),
    [
        (NOW_S + 1, (), (), None),
        (NOW_S, (), (), "wrong_audience"),
        (None, (), (), "wrong_audience"),
        (NOW_S + 1, ("other",), (), "wrong_audience"),
        (NOW_S + 1, (), ("bank",), "wrong_audience"),
    ],
    ids=["from before", "not from before", "no such time", "another audience", "one that was demanded"],
)
async def test_tokens_from_before_the_audience_pass_without_one(
    clock: HandClock, since_s: float | None, audience: tuple[str, ...], demanded: tuple[str, ...], reason: str | None
) -> None:
    before = Shop(clock)
    raw_token = await before.issue({}, audience=audience)
    now = Shop(clock, audience=("shop",), audience_since_s=since_s)
    now.source.change(before.source.loaded.ring)

    try:
        await now.tokens.verify(raw_token, audience=demanded)
        found = None
    except InvalidToken as error:
        found = error.reason

    assert found == reason


async def test_other_requests_go_on_beside_a_slow_signature(clock: HandClock) -> None:
    turns = {}
    for algorithm in ("ES256", "RS256"):
        shop = Shop(clock, algorithm=algorithm, access_ttl_s=300)
        under_way = asyncio.create_task(shop.issue({}))
        turns[algorithm] = 0
        while not under_way.done():
            turns[algorithm] += 1
            await asyncio.sleep(0)
        verified = await shop.tokens.verify(await under_way)
        assert verified.claims.payload == {}

    assert turns["ES256"] <= 4
    assert turns["RS256"] > 4


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
async def test_an_access_token_of_a_key_revoked_meanwhile_is_not_given_again(
    clock: HandClock, algorithm: Algorithm
) -> None:
    shop = Shop(clock, algorithm=algorithm, access_ttl_s=300)
    raw_token = await shop.issue({})
    first_ring = shop.source.loaded.ring
    key_2, key_3 = (make_test_key(kid, now_s=NOW_S, algorithm=algorithm) for kid in ("k2", "k3"))
    ring = keyring.promote(keyring.stage(first_ring, key_2), now_s=NOW_S + 1)
    shop.source.change(ring)
    verified = await shop.tokens.verify(raw_token)
    under_way = asyncio.create_task(shop.tokens.reused_access_token(verified, audience=("orders",)))
    await asyncio.sleep(0)

    ring = keyring.stage(keyring.revoke(ring, "k2", now_s=NOW_S + 2), key_3)
    shop.source.change(keyring.promote(ring, now_s=NOW_S + 2))
    verified = await shop.tokens.verify(raw_token)
    kid_of_first = jwt.get_unverified_header((await under_way).raw_token)["kid"]
    again = await shop.tokens.reused_access_token(verified, audience=("orders",))

    assert (kid_of_first, jwt.get_unverified_header(again.raw_token)["kid"]) == ("k2", "k3")
