"""Arbitrary and mutated input at every door: nothing but the closed set of errors comes out, and no forgery gets in.

FUZZ_EXAMPLES sets how many inputs each door is tried with; `make fuzz` tries 20,000 new ones each time.
"""

import asyncio
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from service.config import NAMES, Settings
from service.errors import GuestSessionsError, InvalidPolicy, InvalidSettings, InvalidToken, KeyringDamaged, WrongSecret
from service.http import schemas
from service.http.auth import ApiKeyAuth, ApiKeyPolicy
from service.http.cookies import CookiePolicy, GuestCookie
from service.http.forward_auth import ForwardAuth, ForwardAuthPolicy
from service.http.rate_limit import RateLimiter
from service.keys import encoding
from service.keys.encryption import Sealer
from service.keys.held import LoadedRing
from service.keys.redis_store import parse_redis_url
from service.keys.signer import Signer, inspect
from service.merge.handover import Candidate, merge_guests
from service.merge.policy_parser import compile_policy, parse_policy_file
from service.merge.service import MergeService
from service.tokens import claims
from service.tokens.payload_patch import JsonPatch, MergePatch, PayloadPatch
from service.tokens.service import TokenPolicy, TokenService, decode_claims
from tests.doubles import HandClock
from tests.security.bodies import BAD_BODIES
from tests.security.forge import ISSUER, NOW_S, base64url, forge

fuzz = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")),
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

CODEC = Signer(forge().ring)
GOOD = forge().token()

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", "/", "/a/-", "~", "~2", "*", "G-1", "\ud800", "\x00\r\n", 2**63, 10**40, -0.0])
)
names = st.text(max_size=4) | st.sampled_from(
    [
        "op",
        "path",
        "from",
        "value",
        "rules",
        "rule",
        "default",
        "protect",
        "fields",
        "key",
        "limit",
        "keep",
        "__proto__",
    ]
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=20
)
objects = st.dictionaries(names, values, max_size=5)


@st.composite
def mutated(draw: st.DrawFn, source: bytes) -> bytes:
    """The source with a few bytes replaced, put in, taken out or doubled."""
    raw = bytearray(source)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(raw)))
        length = draw(st.integers(0, 8))
        match draw(st.integers(0, 3)):
            case 0:
                raw[place : place + length] = draw(st.binary(min_size=length, max_size=length))
            case 1:
                raw[place:place] = draw(st.binary(max_size=8))
            case 2:
                del raw[place : place + length]
            case _:
                raw[place:place] = raw[place : place + length * 8]
    return bytes(raw)


texts = st.text() | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape"))
tokens = (
    mutated(GOOD.encode()).map(lambda raw: raw.decode("latin-1"))
    | texts
    | st.lists(st.binary(max_size=40).map(base64url), min_size=1, max_size=5).map(".".join)
)


bodies = (
    st.binary()
    | values.map(lambda value: repr(value).encode("utf-8", "replace"))
    | mutated(msgspec.json.encode(forge().claims()))
    | mutated(b'{"token": "a.b.c", "json_patch": [{"op": "add", "path": "/a", "value": 1e5}], "cookie": true}')
    | mutated(b'{"payload": {"a": [1, 2.5, "\\u00fc"]}, "claims": {}, "ttl": 60, "audience": ["x"], "subject": "y"}')
    | mutated(b'{"tokens": [null, "\\ud800"], "session": {"merged_guests": [["a", 1]]}, "policy": {"default": "deep"}}')
    | st.sampled_from(list(BAD_BODIES.values()))
)


@fuzz
@given(tokens)
def test_the_codec_takes_nothing_but_what_was_signed(raw_token: str) -> None:
    try:
        CODEC.verify(raw_token)
    except InvalidToken:
        return
    assert raw_token == GOOD


@fuzz
@given(tokens)
def test_inspection_raises_its_own_error_alone(raw_token: str) -> None:
    with suppress(InvalidToken):
        inspect(raw_token)


@fuzz
@given(bodies)
def test_the_claims_door_raises_its_own_error_alone(body: bytes) -> None:
    with suppress(InvalidToken):
        claims.parse(decode_claims(body))


@fuzz
@given(
    bodies, st.sampled_from([schemas.IssueRequest, schemas.RefreshRequest, schemas.VerifyRequest, schemas.MergeRequest])
)
def test_the_json_door_raises_its_own_errors_alone(body: bytes, shape: type[schemas.Request]) -> None:
    with suppress(GuestSessionsError):
        schemas.decode(body, shape)
    with suppress(GuestSessionsError):
        schemas.decode_form(body)


@fuzz
@given(values)
def test_a_policy_of_any_shape_raises_its_own_error_alone(document: Any) -> None:
    with suppress(GuestSessionsError):
        compile_policy(document)


rule_names = st.sampled_from(
    ["session", "guest", "guest_if_empty", "drop", "deep", "sum", "max", "min", "union", "append", "by_key"]
)
some_paths = st.sampled_from(["", "/", "/*", "/a", "/a/b", "/*/a", "/a/*", "/*/*", "/rule", "/__proto__"])
some_numbers = st.sampled_from([0, 1, -1, 0.5, 2**63, 2**64 - 1, 1e19, 1e308, -1e308])
options = {
    "limit": st.integers(0, 3),
    "keep": st.sampled_from(["first", "last"]),
    "floor": some_numbers,
    "ceiling": some_numbers,
    "key": st.sampled_from(["a", "rule", ["a", "b"]]),
}


def rules_with(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {"rule": rule_names}, optional={**options, "fields": st.dictionaries(some_paths, inner, max_size=3)}
    ).map(fitting)


def fitting(rule: dict[str, Any]) -> dict[str, Any]:
    """The rule without the options of others, so that most policies compile."""
    known = {"sum": {"floor"}, "max": {"ceiling"}, "min": {"floor", "ceiling"}, "by_key": {*options, "fields"}}
    lists = {"limit", "keep"}
    kept = known.get(rule["rule"], lists if rule["rule"] in ("union", "append") else set())
    kept = kept - {"floor", "ceiling"} if rule["rule"] == "by_key" else kept
    need = {"key": "a"} if rule["rule"] == "by_key" else {}
    return need | {name: value for name, value in rule.items() if name in kept | {"rule"}}


some_rules = st.recursive(rule_names.filter(lambda name: name != "by_key"), rules_with, max_leaves=6)
some_policies = st.fixed_dictionaries(
    {},
    optional={
        "rules": st.dictionaries(some_paths, some_rules, max_size=5),
        "default": some_rules,
        "protect": st.lists(some_paths, max_size=2),
        "protect_defaults": st.booleans(),
    },
)
payload_scalars = st.sampled_from(
    [None, True, False, "", "a", "~", "\x00", 0, 1, 1.0, -0.0, 0.1, 2**64 - 1, -(2**63), 1e19, 1e308, 5e-324]
)
payload_names = st.sampled_from(["a", "b", "", "rule", "role", "__proto__"])
payload_values: st.SearchStrategy[Any] = st.recursive(
    payload_scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(payload_names, inner, max_size=4),
    max_leaves=20,
)
some_payloads = st.dictionaries(payload_names, payload_values, max_size=4)


@fuzz
@given(some_payloads, st.lists(some_payloads, min_size=1, max_size=4), some_policies | values)
def test_a_merge_under_any_policy_ends_in_json_and_changes_no_argument(
    session: dict[str, Any], payloads: list[dict[str, Any]], document: Any
) -> None:
    try:
        policy = compile_policy(document)
    except InvalidPolicy:
        return
    guests = [
        claims.GuestClaims(ISSUER, "G-1", (), NOW_S, NOW_S + 1, number // 2, "t", number + 1, payload)
        for number, payload in enumerate(payloads)
    ]
    before = repr((session, guests))

    first = merge_guests(session, [Candidate(*each) for each in enumerate(guests[:-1])], policy)
    result = merge_guests(first.payload, [Candidate(0, guests[-1])], policy)

    assert json.loads(json.dumps(result.payload, allow_nan=False)) == result.payload
    json.dumps([msgspec.to_builtins(each) for each in (*result.conflicts, *result.changes)], allow_nan=False)
    assert repr((session, guests)) == before


@fuzz
@given(bodies, st.sampled_from(["json", "toml"]))
def test_a_policy_file_of_any_bytes_raises_its_own_error_alone(content: bytes, form: Any) -> None:
    with suppress(GuestSessionsError):
        parse_policy_file(content, format=form)


operations = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]) | values},
    optional={
        "path": st.sampled_from(["", "/a", "/a/0", "/a/-", "/~", "a"]) | values,
        "from": st.just("/a") | values,
        "value": values,
    },
)


@fuzz
@given(objects, st.lists(operations | values, max_size=4).map(JsonPatch) | objects.map(MergePatch))
def test_a_patch_of_any_shape_raises_its_own_errors_alone_and_changes_no_argument(
    payload: dict[str, Any], change: PayloadPatch
) -> None:
    before = repr(payload)
    with suppress(GuestSessionsError):
        assert isinstance(change.apply(payload), dict)
    assert repr(payload) == before


settings_texts = texts | st.sampled_from(
    [
        "0",
        "1",
        "-1",
        "1e9",
        "inf",
        "nan",
        "٣",
        "none",
        "::1",
        "0.0.0.0",  # noqa: S104 - a text to be refused
        "http://[",
        "https://a:b",
        "10.0.0.0/33",
        ",",
        "a,,b",
    ]
)


def no_file(_path: Path) -> bytes:
    raise FileNotFoundError(2, "No such file or directory")


@fuzz
@given(
    st.dictionaries(st.sampled_from(NAMES), settings_texts),
    st.binary() | texts.map(lambda text: text.encode("utf-8", "replace")),
)
def test_settings_of_any_text_raise_their_own_error_alone(variables: dict[str, str], content: bytes) -> None:
    for read_file in (no_file, lambda _path: content):
        with suppress(InvalidSettings):
            Settings.from_mapping(variables, read_file=read_file)


@fuzz
@given(texts)
def test_an_address_of_redis_raises_a_value_error_alone(text: str) -> None:
    for scheme in ("redis://", "rediss+sentinel://", "redis+cluster://", "unix://", ""):
        with suppress(ValueError):
            parse_redis_url(scheme + text)


@fuzz
@given(bodies | mutated(encoding.to_jwk_set(forge().ring)))
def test_a_keyring_of_any_bytes_is_damaged_or_whole(stored: bytes) -> None:
    with suppress(KeyringDamaged):
        Signer(encoding.from_jwk_set(stored))


SEALER = Sealer((base64url(b"s" * 32) + "=",))


@fuzz
@given(bodies | mutated(SEALER.seal(b"ring")))
def test_what_is_sealed_opens_as_it_was_or_not_at_all(sealed: bytes) -> None:
    with suppress(KeyringDamaged, WrongSecret):
        assert SEALER.open(sealed) == b"ring"


RATE_PER_S = 1_000_000.0


def gateway() -> ForwardAuth:
    keys = _Keys()
    policy = TokenPolicy(
        issuers=(ISSUER,), audience=(), ttl_s=60, max_ttl_s=60, renew_after_s=30, max_token_bytes=3_800
    )
    clock = HandClock(NOW_S + 40)
    tokens = TokenService(policy, keys=keys, clock=clock, random_bytes=os.urandom, observe=lambda _event: None)
    return ForwardAuth(
        ForwardAuthPolicy(
            ensure_on="any",
            headers=frozenset({"payload", "token"}),
            rate_limit_per_s=RATE_PER_S,
            trusted_proxies=Settings.from_mapping(
                {"GUEST_TRUSTED_PROXIES": "127.0.0.0/8,::1/128,10.0.0.0/8"}
            ).gateway.trusted_proxies,
        ),
        tokens=tokens,
        merges=MergeService(tokens),
        cookie=GuestCookie(CookiePolicy(names=("guest",), domain=None, same_site="Lax", secure=False)),
        limiter=RateLimiter(RATE_PER_S, clock=clock),
    )


class _Keys:
    """The forge's ring, ready to sign."""

    loaded = LoadedRing(ring=forge().ring, signer=CODEC, jwks=b"", etag="", max_lifetime_s=600)


GATEWAY = gateway()
header_values = (
    texts
    | st.sampled_from(
        [
            f"guest={GOOD}",
            f"Bearer {GOOD}",
            "guest=",
            "guest=a.b.c; guest",
            "127.0.0.1",
            "[::1]:80",
            "10.0.0.1, , ::ffff:1.2.3.4%x",
        ]
    )
    | mutated(f"guest={GOOD}; theme=dark".encode()).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
)
header_names = st.sampled_from(
    [
        "Cookie",
        "Authorization",
        "X-Forwarded-For",
        "X-Forwarded-Method",
        "Sec-Fetch-Mode",
        "Sec-Fetch-Dest",
        "Purpose",
        "Origin",
        "X-API-Key",
    ]
)
headers = st.lists(st.tuples(header_names, header_values), max_size=6).map(
    lambda pairs: CIMultiDictProxy(CIMultiDict(pairs))
)


@fuzz
@given(headers, texts)
@example(CIMultiDictProxy(CIMultiDict([("Cookie", f"guest={GOOD}")])), "127.0.0.1")
def test_a_gateway_answers_whatever_the_headers_and_what_it_answers_fits_headers(
    sent: CIMultiDictProxy[str], peer: str
) -> None:
    verified = asyncio.run(GATEWAY.verify(sent))
    ensured = asyncio.run(GATEWAY.ensure(sent, method="GET", peer=peer))

    for answer in (verified or ensured, ensured):
        for name, value in answer.headers.items():
            assert (name + value).isascii()
            assert (name + value).isprintable()
    if verified is not None:
        assert verified.headers["X-Guest-Id"] == "G-1"
        assert any(GOOD in value for value in sent.values())


@fuzz
@given(headers)
def test_the_guard_lets_in_or_raises_its_own_error(sent: CIMultiDictProxy[str]) -> None:
    for keys in ((), ("k" * 20,)):
        policy = ApiKeyPolicy(api_keys=keys, api_keys_file=None, allowed_origins=frozenset({"https://a.example"}))
        with suppress(GuestSessionsError):
            ApiKeyAuth(policy, clock=HandClock()).check(sent)
            assert keys == ()
