"""Changes of one guest that race, against the real signer and a hand-moved clock."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import msgspec
import pytest

from service.errors import StaleToken
from service.keys import keyring
from service.keys.held import LoadedRing
from service.keys.keyring import KeyRing
from service.keys.material import Algorithm
from service.keys.signer import Signer
from service.merge.presets import SHIPPED
from service.merge.service import MergeService, Refreshed
from service.tokens.payload_patch import JsonPatch, MergePatch, PayloadPatch, Replace
from service.tokens.recent import KEPT_S, RecentTokens
from service.tokens.service import TokenPolicy, TokenService
from tests.doubles import HandClock, make_test_key

JSON = Any
NOW_S = 1_800_000_000.0
POLICY = TokenPolicy(
    issuers=("https://guests.example",),
    audience=(),
    ttl_s=1_000,
    max_ttl_s=1_000,
    renew_after_s=100,
    max_token_bytes=3_800,
)


class Source:
    """Where the keys come from; a test may change the ring."""

    def __init__(self, ring: KeyRing) -> None:
        self.change(ring)

    def change(self, ring: KeyRing) -> None:
        self.loaded = LoadedRing(ring=ring, signer=Signer(ring), jwks=b"", etag="", max_lifetime_s=1_000)


class Shop:
    """One host: a memory, and workers under one policy."""

    def __init__(self, clock: HandClock, *, algorithm: Algorithm = "ES256", **policy: Any) -> None:
        key = make_test_key("k1", now_s=NOW_S, algorithm=algorithm)
        self.clock = clock
        self.source = Source(keyring.create(key, ring_id="d", derivation_secret=b"s" * 32))
        self.recent = RecentTokens()
        self.numbers = 0
        self.tokens = TokenService(
            msgspec.structs.replace(POLICY, **policy),
            keys=self.source,
            clock=clock,
            random_bytes=self.random_bytes,
            observe=lambda _event: None,
        )
        self.merges = MergeService(self.tokens, recent=self.recent)

    def random_bytes(self, size: int) -> bytes:
        self.numbers += 1
        return self.numbers.to_bytes(size)

    async def issue(self, payload: JSON, **arguments: Any) -> str:
        return (await self.tokens.issue(payload=payload, **arguments)).raw_token

    async def refresh(self, raw_token: str, patch: PayloadPatch | None = None, **arguments: Any) -> Refreshed:
        return await self.merges.refresh(raw_token, policy=SHIPPED["cart"], patch=patch, **arguments)

    async def change(self, raw_token: str, patch: PayloadPatch | None = None, **arguments: Any) -> str:
        return (await self.refresh(raw_token, patch, **arguments)).token.raw_token


@pytest.fixture
def clock() -> HandClock:
    return HandClock(NOW_S)


@pytest.fixture
def shop(clock: HandClock) -> Shop:
    return Shop(clock)


def cart(**quantities: int) -> JSON:
    return {"cart": [{"sku": sku, "quantity": quantity} for sku, quantity in quantities.items()]}


async def test_two_tabs_that_change_one_state_lose_nothing(shop: Shop) -> None:
    first = await shop.issue(cart(tea=1))
    one = await shop.refresh(first, Replace(cart(tea=2)))

    other = await shop.refresh(first, Replace(cart(tea=1, cup=1)))

    assert one.rebased_onto is None
    assert other.rebased_onto == 2
    assert other.token.claims.version == 3
    assert other.token.claims.payload == cart(tea=2, cup=1)


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
async def test_clicks_at_once_are_all_there(clock: HandClock, algorithm: Algorithm) -> None:
    shop = Shop(clock, algorithm=algorithm)
    first = await shop.issue({"cart": []})

    clicks = [shop.change(first, Replace(cart(tea=1))) for _ in range(20)]
    raw_tokens = await asyncio.gather(*clicks)

    final = await shop.refresh(raw_tokens[0])
    assert final.token.claims.payload == cart(tea=20)
    assert final.token.claims.version == 21


async def test_no_slow_signature_is_made_in_vain(clock: HandClock) -> None:
    shop = Shop(clock, algorithm="RS256")
    first = await shop.issue({"cart": []})
    numbered = shop.numbers

    await asyncio.gather(*(shop.change(first, Replace(cart(tea=1))) for _ in range(10)))

    assert shop.numbers - numbered == 10  # each token that is signed takes one number, its `jti`


async def test_guests_do_not_wait_for_each_other_s_slow_signatures(clock: HandClock) -> None:
    shop = Shop(clock, algorithm="RS256")
    guests = [await shop.issue({}) for _ in range(3)]
    done: list[str] = []

    async def noted(name: str, work: Awaitable[object]) -> None:
        await work
        done.append(name)

    changes = [asyncio.create_task(noted("change", shop.change(each, Replace({"a": 1})))) for each in guests]
    for _ in range(5):  # until all changes wait for the thread that signs
        await asyncio.sleep(0)
    await asyncio.gather(*changes, noted("issue", shop.issue({})))

    assert done == ["change", "change", "change", "issue"]


@pytest.mark.parametrize(
    "patch",
    [
        MergePatch({"note": "b"}),
        JsonPatch([{"op": "add", "path": "/note", "value": "b"}]),
        Replace({"n": 1, "note": "b"}),
    ],
    ids=["merge patch", "JSON patch", "replacement"],
)
async def test_every_kind_of_change_is_merged(shop: Shop, patch: PayloadPatch) -> None:
    first = await shop.issue({"n": 1})
    await shop.change(first, MergePatch({"n": 2}))

    assert (await shop.refresh(first, patch)).token.claims.payload == {"n": 2, "note": "b"}


async def test_a_renewal_of_a_superseded_token_gives_the_newest_state(shop: Shop) -> None:
    first = await shop.issue({"n": 1})
    await shop.change(first, MergePatch({"n": 2}))

    renewed = await shop.refresh(first)
    verified = await shop.tokens.verify(first)

    assert renewed.rebased_onto is None
    assert (renewed.token.claims.version, renewed.token.claims.payload) == (2, {"n": 2})
    assert shop.merges.is_superseded(verified)
    assert (await shop.merges.renew(verified)).claims.payload == {"n": 2}
    assert shop.merges.is_superseded(await shop.tokens.verify(renewed.token.raw_token)) is not None


async def test_a_renewed_token_is_superseded_and_its_state_is_current(shop: Shop) -> None:
    first = await shop.issue({"n": 1})
    renewed = await shop.change(first)

    assert shop.merges.is_superseded(await shop.tokens.verify(first))
    assert not shop.merges.is_superseded(await shop.tokens.verify(renewed))
    assert (await shop.refresh(first, MergePatch({"n": 2}), if_current=True)).token.claims.version == 2


async def test_if_current_refuses_to_merge_and_names_the_newest_version(shop: Shop) -> None:
    first = await shop.issue({"n": 1})
    second = await shop.change(first, MergePatch({"n": 2}))
    await shop.change(second, MergePatch({"n": 3}))

    with pytest.raises(StaleToken) as refused:
        await shop.refresh(first, MergePatch({"n": 9}), if_current=True)

    assert (refused.value.code, refused.value.facts) == ("stale_token", {"version": 3})


async def test_if_current_is_no_lock_and_proceeds_where_nothing_newer_is_known(shop: Shop) -> None:
    first = await shop.issue({"n": 1})

    assert (await shop.refresh(first, MergePatch({"n": 2}), if_current=True)).token.claims.payload == {"n": 2}


async def test_after_two_minutes_the_last_write_wins(shop: Shop, clock: HandClock) -> None:
    first = await shop.issue({"n": 1})
    await shop.change(first, MergePatch({"a": 1}))
    clock.now_s += KEPT_S

    late = await shop.refresh(first, MergePatch({"b": 1}))

    assert late.rebased_onto is None
    assert (late.token.claims.version, late.token.claims.payload) == (2, {"n": 1, "b": 1})


async def test_each_signing_keeps_the_guest_for_two_minutes_more(shop: Shop, clock: HandClock) -> None:
    first = await shop.issue({"n": 1})
    newest = first
    for _ in range(3):
        clock.now_s += KEPT_S - 1
        newest = await shop.change(newest, MergePatch({"n": clock.now_s}))

    assert (await shop.refresh(first, MergePatch({"b": 1}))).rebased_onto == 4


async def test_lifetime_audience_and_claims_are_those_of_the_newest(shop: Shop) -> None:
    first = await shop.issue({"n": 1}, audience=["shop"], extra_claims={"x": 1})
    await shop.change(first, MergePatch({"n": 2}), ttl_s=500)

    made = (await shop.refresh(first, MergePatch({"m": 1}))).token.claims

    assert (made.audience, made.extra_claims, made.lifetime_s) == (("shop",), {"x": 1}, 500)


async def test_an_expired_newest_token_is_not_used(shop: Shop, clock: HandClock) -> None:
    first = await shop.issue({"n": 1})
    await shop.change(first, MergePatch({"n": 2}), ttl_s=10)
    clock.now_s += 10

    assert (await shop.refresh(first, MergePatch({"m": 1}))).token.claims.payload == {"n": 1, "m": 1}


async def test_a_handover_counts_the_newest_state_of_a_superseded_token(shop: Shop) -> None:
    first = await shop.issue(cart(tea=1))
    second = await shop.change(first, Replace(cart(tea=2)))

    stale = await shop.merges.merge([first], session={}, policy=SHIPPED["cart"])
    both = await shop.merges.merge([first, second], session={}, policy=SHIPPED["cart"])

    assert stale.result.payload["cart"] == both.result.payload["cart"] == cart(tea=2)["cart"]
    assert [each.version for each in stale.result.guests] == [2]
    assert [(each.index, each.reason) for each in both.skipped] == [(1, "superseded")]


async def test_what_an_old_tab_changes_after_the_handover_merges_weakened(shop: Shop) -> None:
    first = await shop.issue(cart(tea=2))
    merged = await shop.merges.merge([first], session=cart(tea=1), policy=SHIPPED["cart"])
    later = await shop.change(first, Replace(cart(tea=2, cup=1)))

    again = await shop.merges.merge([later], session=merged.result.payload, policy=SHIPPED["cart"])

    assert again.result.payload["cart"] == cart(tea=3, cup=1)["cart"]
    assert [each.weakened for each in again.result.guests] == [True]


async def test_next_is_given_for_an_empty_guest(shop: Shop) -> None:
    first = await shop.issue({}, audience=["shop"])

    merged = await shop.merges.merge([first], session={}, policy=SHIPPED["cart"])

    assert not merged.result.merged
    assert [(each.index, each.reason) for each in merged.skipped] == [(0, "empty")]
    assert merged.next is not None
    assert merged.next.claims.audience == ("shop",)


async def test_a_lost_memory_costs_no_more_than_the_last_write(shop: Shop) -> None:
    first = await shop.issue({"n": 1})
    await shop.change(first, MergePatch({"a": 1}))
    shop.merges = MergeService(shop.tokens, recent=RecentTokens())

    assert (await shop.refresh(first, MergePatch({"b": 1}))).token.claims.payload == {"n": 1, "b": 1}


async def test_a_change_on_a_token_without_the_audience_of_now_gets_it(clock: HandClock) -> None:
    shop = Shop(clock)
    first = await shop.issue({"n": 1})
    demanding = Shop(clock, audience=("shop",), audience_since_s=NOW_S + 1)
    demanding.source.change(shop.source.loaded.ring)

    assert (await demanding.refresh(first, MergePatch({"n": 2}))).token.claims.audience == ("shop",)
