"""Every attack of the catalogue, against the codec and the claims' door, and through every endpoint."""

from base64 import urlsafe_b64decode
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from service.errors import InvalidToken
from service.keys import encoding
from service.keys.signer import Signer
from service.tokens import claims
from service.tokens.service import decode_claims
from tests.api import Api
from tests.conftest import MakeApi
from tests.doubles import HandClock
from tests.security.attacks import ATTACKS, malleable
from tests.security.forge import NOW_S, base64url, forge, segment


@cache
def codec() -> Signer:
    return Signer(forge().ring)


def refusal(token: str) -> str | None:
    """Why the codec, or the claims' door behind it, refuses the token; None where they take it."""
    try:
        _, body = codec().verify(token)
        claims.parse(decode_claims(body))
    except InvalidToken as error:
        return error.reason
    return None


@pytest.fixture
async def api(make_api: MakeApi, tmp_path: Path, clock: HandClock) -> Api:
    """A service that holds the ring of the forge."""
    (tmp_path / "keys").mkdir(mode=0o700)
    (tmp_path / "keys" / "keyring.json").write_bytes(encoding.to_jwk_set(forge().ring))
    clock.now_s = NOW_S + 1
    return await make_api()


def test_the_forge_makes_good_tokens_so_that_each_attack_differs_in_one_thing() -> None:
    made = forge()

    assert refusal(made.token()) is None
    assert refusal(made.token(key=made.retired)) is None


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_for_its_reason(name: str) -> None:
    attack, reason = ATTACKS[name]

    assert refusal(attack(forge())) == reason


WRONG: dict[str, list[Any]] = {
    "iss": [..., None, True, 1, 1.5, "", [], ["http://127.0.0.1:8080"], {}],
    "sub": [..., None, False, 1, "", "a b", "a\n", "ü", "\x00", "x" * 256, ["G-1"], {}],
    "aud": [None, True, 1, "", [], [""], [1], ["a", None], {"a": 1}],
    "iat": [..., None, True, -1, 1.5, 1e3, "1", str(NOW_S), 2**53, 2**63, 2**64, 10**400, [], {}],
    "exp": [..., None, True, -1, 1.5, 1e300, " 9_999 ", "9999999999", 2**53, 2**63, 2**64, 10**400, [], {}],
    "orig_iat": [..., None, True, -1, 1.5, "1", 2**53, []],
    "jti": [..., None, 0, "", [], {}],
    "ver": [..., None, True, 0, -1, 1.0, "1", 2**53, []],
    "payload": [..., None, True, 1, "", "{}", []],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_claim_of_the_wrong_type_is_malformed_however_well_signed(name: str, value: Any) -> None:
    assert refusal(forge().with_claims(**{name: value})) == "malformed"


async def test_no_endpoint_takes_any_attack(api: Api) -> None:
    made = forge()
    for name, (attack, reason) in ATTACKS.items():
        token = attack(made)
        if len(token) > 200_000 or "\ud800" in token:
            continue  # refused before: by the body's limit, and as no text
        verified = await api.verify(token)
        introspected = await api.ask("POST", "/v1/introspect", data={"token": token})
        refreshed = await api.post("/v1/refresh-payload", {"token": token})
        merged = await api.post("/v1/merge", {"tokens": [token]})

        assert verified == {"active": False, "reason": reason}, name
        assert introspected.json == {"active": False}, name
        assert (refreshed.status, refreshed.json["reason"]) == (422, reason), name
        assert (merged.status, merged.json["merged"]) == (200, False), name
        assert [each["reason"] for each in merged.json["skipped"]] == [reason], name


async def test_no_gateway_lets_any_attack_in(api: Api) -> None:
    made = forge()
    for name, (attack, _) in ATTACKS.items():
        token = attack(made)
        if len(token) > 16_384 or not token.isprintable() or not token.isascii():
            continue  # no header can carry it; the raw bytes are tried at the wire
        for headers in ({"Cookie": f"guest={token}"}, {"Authorization": f"Bearer {token}"}):
            verify = await api.get("/v1/auth", headers=headers)
            ensure = await api.get("/v1/auth?mode=ensure", headers=headers)

            if name in ("padded signature", "in quotation marks", "Bearer before it"):
                continue
            assert (verify.status, ensure.status) == (401, 200), name
            assert ensure.headers["X-Guest-Id"] == "", name


async def test_a_good_token_is_taken_next_to_the_attacks(api: Api) -> None:
    made = forge()

    assert (await api.verify(made.token()))["active"]
    assert (await api.verify(made.token(key=made.retired)))["refresh_due"]


async def test_odd_further_claims_stay_data(api: Api) -> None:
    for name in ("__proto__", "constructor", "toString", "nbf", "active", "reason", "X-Guest-Id"):
        verified = await api.verify(forge().with_claims(**{name: {"admin": True}}))

        assert (verified["active"], verified["claims"]) == (True, {name: {"admin": True}})


async def test_a_well_signed_token_nested_800_deep_breaks_nothing(api: Api) -> None:
    deep = '{"a":' * 800 + "1" + "}" * 800
    text = segment(forge().claims(payload={"deep": "HERE"}))
    token = forge().token(claims=_replaced(text, '"HERE"', deep))

    verified = await api.verify(token)
    merged = await api.post("/v1/merge", {"tokens": [token]})
    refreshed = await api.post("/v1/refresh-payload", {"token": token, "merge_patch": {"b": 1}})

    assert verified == {"active": False, "reason": "malformed"}
    assert (merged.status, merged.json["merged"]) == (200, False)
    assert (refreshed.status, refreshed.json["reason"]) == (422, "malformed")


def _replaced(encoded: str, old: str, new: str) -> str:
    return base64url(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).replace(old.encode(), new.encode()))


def test_the_other_half_of_a_signature_verifies_but_makes_no_other_token() -> None:
    # ECDSA is malleable: (r, n - s) holds wherever (r, s) does. It says the same claims, and nothing here identifies a
    # token by its bytes: a guest is its `sub` and `orig_iat`, a token its `jti`.
    assert refusal(malleable(forge())) is None
