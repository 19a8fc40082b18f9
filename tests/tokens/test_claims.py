from typing import Any

import pytest

from service.errors import InvalidToken
from service.tokens import claims
from service.tokens.claims import GuestClaims

ISSUER = "https://guests.example"
GOOD: dict[str, Any] = {
    "iss": ISSUER,
    "sub": "G-1",
    "iat": 1_700_000_000,
    "exp": 1_700_000_060,
    "orig_iat": 1_600_000_000,
    "jti": "t-1",
    "ver": 1,
    "payload": {"cart": []},
}


def made(**changed: Any) -> GuestClaims:
    return claims.parse({**GOOD, **changed})


def reason_of(token: GuestClaims, **changed: Any) -> tuple[str, str | None] | None:
    accepted = {"issuers": (ISSUER,), "audience": (), "revoked_before_s": 0, "now_s": 1_700_000_000.0, **changed}
    try:
        claims.check(token, **accepted)
    except InvalidToken as error:
        return error.reason, error.subject
    return None


def test_a_first_token_starts_its_lineage_at_version_1_with_its_time_rounded_down() -> None:
    first = claims.first(
        issuer=ISSUER,
        subject="G-1",
        audience=(),
        ttl_s=60,
        token_id="t-1",
        payload={"cart": []},
        extra_claims={},
        now_s=1_700_000_000.999,
    )

    assert first.to_json() == {**GOOD, "orig_iat": 1_700_000_000}
    assert (first.lifetime_s, first.lineage) == (60, ("G-1", "1700000000"))


@pytest.mark.parametrize(
    ("subject", "derived"),
    [
        ("G-01234567-89ab-8cde-9f01-23456789abcd", True),
        ("G-01234567-89ab-4cde-9f01-23456789abcd", False),
        ("G-01234567-89ab-8cde-cf01-23456789abcd", False),
        ("G-01234567-89AB-8cde-9f01-23456789abcd", False),
        ("G-01234567-89ab-8cde-9f01-23456789abcd0", False),
        ("01234567-89ab-8cde-9f01-23456789abcd", False),
    ],
)
def test_a_subject_derived_from_an_idempotency_key_is_a_lineage_by_itself(subject: str, *, derived: bool) -> None:
    assert made(sub=subject).lineage == ((subject,) if derived else (subject, "1600000000"))


@pytest.mark.parametrize(("audience", "member"), [((), {}), (("a",), {"aud": "a"}), (("a", "b"), {"aud": ("a", "b")})])
def test_one_audience_is_written_as_a_string_and_several_as_a_list(
    audience: tuple[str, ...], member: dict[str, Any]
) -> None:
    first = claims.first(
        issuer=ISSUER,
        subject="G-1",
        audience=audience,
        ttl_s=1,
        token_id="t",
        payload={},
        extra_claims={"x": 1},
        now_s=0,
    )

    assert {name: value for name, value in first.to_json().items() if name == "aud"} == member
    assert first.to_json()["x"] == 1


def test_a_changed_payload_is_the_next_version_of_the_same_guest() -> None:
    old = made(aud=["a", "b"], role_hint="guest")

    new = claims.renewed(
        old,
        issuer="https://new.example",
        audience=("c",),
        ttl_s=10,
        token_id="t-2",
        payload={"a": 1},
        now_s=1.7e9 + 5.9,
    )

    assert new.to_json() == {
        "iss": "https://new.example",
        "sub": "G-1",
        "aud": ("a", "b"),
        "iat": 1_700_000_005,
        "exp": 1_700_000_015,
        "orig_iat": 1_600_000_000,
        "jti": "t-2",
        "ver": 2,
        "payload": {"a": 1},
        "role_hint": "guest",
    }


def test_signing_again_keeps_payload_and_version() -> None:
    new = claims.renewed(made(ver=7), issuer=ISSUER, audience=(), ttl_s=10, token_id="t-2", payload=None, now_s=1.7e9)

    assert (new.version, new.payload) == (7, {"cart": []})


def test_what_was_written_reads_back_the_same() -> None:
    token = made(aud=["a", "b"], x=[1], y=None)

    assert claims.parse({**token.to_json(), "aud": ["a", "b"]}) == token
    assert (token.audience, token.extra_claims) == (("a", "b"), {"x": [1], "y": None})


@pytest.mark.parametrize("audience", [{}, {"aud": "a"}])
@pytest.mark.parametrize("number", range(4))
def test_every_extra_claim_is_kept(audience: dict[str, Any], number: int) -> None:
    extra = {f"x-{each}": each for each in range(number)}

    assert made(**audience, **extra).extra_claims == extra


def test_an_extra_claim_may_be_named_like_a_field() -> None:
    extra = {"extra_claims": 1, "issuer": 2, "audience": 3}

    token = made(**extra)

    assert (token.extra_claims, token.issuer, token.audience) == (extra, ISSUER, ())


@pytest.mark.parametrize(("aud", "audience"), [("a", ("a",)), (["a"], ("a",)), (["a", "b", "a"], ("a", "b", "a"))])
def test_an_audience_is_a_string_or_a_list_of_them(aud: object, audience: tuple[str, ...]) -> None:
    assert made(aud=aud).audience == audience


@pytest.mark.parametrize("name", GOOD)
def test_no_claim_may_be_missing(name: str) -> None:
    with pytest.raises(InvalidToken) as caught:
        claims.parse({other: value for other, value in GOOD.items() if other != name})

    assert (caught.value.reason, caught.value.subject) == ("malformed", None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iss", ""),
        ("iss", 1),
        ("sub", ""),
        ("sub", "x" * 256),
        ("sub", " "),
        ("sub", "\x7f"),
        ("sub", "a\n"),
        ("sub", None),
        ("aud", ""),
        ("aud", []),
        ("aud", ["a", ""]),
        ("aud", ["a", 1]),
        ("aud", ("a",)),
        ("aud", None),
        ("aud", {"a": 1}),
        ("iat", -1),
        ("iat", True),
        ("iat", 1.0),
        ("iat", "1"),
        ("iat", 2**53),
        ("exp", -1),
        ("exp", False),
        ("exp", 2**53),
        ("orig_iat", -1),
        ("orig_iat", 2**53),
        ("jti", ""),
        ("jti", 1),
        ("ver", 0),
        ("ver", True),
        ("ver", 2**53),
        ("payload", []),
        ("payload", None),
    ],
)
def test_a_claim_of_the_wrong_type_or_range_is_malformed(name: str, value: object) -> None:
    with pytest.raises(InvalidToken) as caught:
        made(**{name: value})

    assert caught.value.reason == "malformed"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sub", "!"),
        ("sub", "~" * 255),
        ("iat", 0),
        ("exp", 0),
        ("orig_iat", 0),
        ("iat", 2**53 - 1),
        ("exp", 2**53 - 1),
        ("ver", 2**53 - 1),
        ("payload", {}),
    ],
)
def test_the_ends_of_each_range_are_taken(name: str, value: object) -> None:
    assert claims.parse({**GOOD, name: value}).to_json()[name] == value


@pytest.mark.parametrize(("now_s", "expected"), [(59, None), (60, "expired"), (61, "expired")])
def test_a_token_ends_with_the_second_of_its_exp(now_s: int, expected: str | None) -> None:
    found = reason_of(made(), now_s=1_700_000_000 + now_s)

    assert found == (None if expected is None else (expected, "G-1"))


@pytest.mark.parametrize(("before_s", "refused"), [(-1, False), (0, False), (1, True)])
def test_guests_from_before_the_revocation_time_are_refused(before_s: int, refused: bool) -> None:  # noqa: FBT001
    found = reason_of(made(), revoked_before_s=1_600_000_000 + before_s)

    assert found == (("revoked", "G-1") if refused else None)


def test_the_issuer_is_one_of_the_accepted() -> None:
    assert reason_of(made(), issuers=("https://a.example", ISSUER)) is None
    assert reason_of(made(), issuers=("https://a.example", f"{ISSUER}/")) == ("wrong_issuer", "G-1")


@pytest.mark.parametrize(
    ("aud", "demanded", "refused"),
    [
        (["a"], (), False),
        (["a", "b"], ("a",), False),
        (["a", "b"], ("b", "a"), False),
        (["a"], ("a", "b"), True),
        (["A"], ("a",), True),
        (None, ("a",), True),
    ],
)
def test_every_demanded_audience_must_be_there(
    aud: list[str] | None,
    demanded: tuple[str, ...],
    refused: bool,  # noqa: FBT001
) -> None:
    token = made() if aud is None else made(aud=aud)

    assert reason_of(token, audience=demanded) == (("wrong_audience", "G-1") if refused else None)


def test_of_several_faults_the_first_in_the_contract_s_order_is_reported() -> None:
    bad = {"issuers": ("x",), "revoked_before_s": 2**40, "now_s": 2**40, "audience": ("a",)}

    order = []
    for name in ("issuers", "revoked_before_s", "now_s", "audience"):
        found = reason_of(made(), **bad)
        order.append(found and found[0])
        del bad[name]

    assert order == ["wrong_issuer", "revoked", "expired", "wrong_audience"]


def test_a_token_from_the_future_is_good_as_the_signature_vouches_and_clocks_differ() -> None:
    assert reason_of(made(), now_s=0) is None


def test_callers_may_name_no_claim_of_the_token_itself_nor_one_that_would_mislead() -> None:
    own = {"iss", "sub", "aud", "iat", "exp", "orig_iat", "jti", "ver", "payload"}

    assert own == claims.REGISTERED
    assert {*own, "nbf", "active", "token_type"} == claims.RESERVED


def test_claims_never_change() -> None:
    with pytest.raises(AttributeError):
        made().version = 2  # type: ignore[misc]  # that it is refused is the point
