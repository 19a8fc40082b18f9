"""`POST /v1/token`: a short-lived token for other services (RFC 8693), as OAuth clients ask for it."""

from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from aiohttp import FormData, encode_basic_auth

from tests.api import Answer, Api
from tests.conftest import MakeApi
from tests.doubles import START_S, HandClock

KEY = "k" * 20
GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT = "urn:ietf:params:oauth:token-type:jwt"
ACCESS = "urn:ietf:params:oauth:token-type:access_token"


def form(token: str, **parameters: str | None) -> dict[str, str]:
    """A good request, but for `parameters`; None takes one away."""
    good = {"grant_type": GRANT, "subject_token": token, "subject_token_type": JWT, "audience": "search"}
    return {name: value for name, value in {**good, **parameters}.items() if value is not None}


async def exchange(api: Api, parameters: Mapping[str, str] | FormData | str, **headers: str) -> Answer:
    return await api.ask("POST", "/v1/token", data=parameters, headers=headers)


async def decoded(api: Api, token: str, audience: str = "search") -> dict[str, Any]:
    """What an off-the-shelf verifier makes of the token, by the published JWKS."""
    jwks = jwt.PyJWKSet.from_dict((await api.get("/.well-known/jwks.json")).json)
    [key] = jwks.keys
    return dict(
        jwt.decode(
            token, key, algorithms=["ES256"], audience=audience, options={"verify_iat": False, "verify_exp": False}
        )
    )


async def test_a_guest_token_is_exchanged_for_a_short_lived_one(api: Api) -> None:
    guest = await api.issue(payload={"cart": ["tea"]}, claims={"role": "guest"})

    answer = await exchange(api, form(guest["token"]))

    assert answer.status == 200
    assert (answer.headers["Cache-Control"], answer.headers["Pragma"]) == ("no-store", "no-cache")
    token = answer.json["access_token"]
    assert {name: value for name, value in answer.json.items() if name != "access_token"} == {
        "issued_token_type": ACCESS,
        "token_type": "Bearer",
        "expires_in": 300,
        "scope": "",
    }
    claims = await decoded(api, token)
    assert jwt.get_unverified_header(token)["typ"] == "at+jwt"
    assert claims.pop("jti")
    assert claims == {
        "iss": "http://127.0.0.1:8080",
        "sub": guest["subject"],
        "aud": "search",
        "iat": int(START_S),
        "exp": int(START_S) + 300,
        "ver": 1,
        "client_id": "guest-sessions",
    }


async def test_the_payload_goes_along_where_it_is_asked_for(api: Api) -> None:
    guest = await api.issue(payload={"cart": ["tea"]})

    answer = await exchange(api, form(guest["token"], scope="payload"))

    assert answer.json["scope"] == "payload"
    assert (await decoded(api, answer.json["access_token"]))["payload"] == {"cart": ["tea"]}


async def test_several_audiences_are_taken_each_once(api: Api) -> None:
    guest = await api.issue()
    several = FormData([*form(guest["token"]).items(), ("audience", "mail"), ("audience", "search")])

    answer = await exchange(api, several)

    assert (await decoded(api, answer.json["access_token"], "mail"))["aud"] == ["search", "mail"]


async def test_an_access_token_never_outlives_the_guest_token(api: Api, clock: HandClock) -> None:
    guest = await api.issue(ttl=100)
    clock.now_s += 40

    answer = await exchange(api, form(guest["token"]))

    assert answer.json["expires_in"] == 60


async def test_no_endpoint_takes_an_access_token_for_a_guest_token(make_api: MakeApi) -> None:
    api = await make_api()
    guest = await api.issue()
    token = (await exchange(api, form(guest["token"]))).json["access_token"]

    assert (await api.verify(token)) == {"active": False, "reason": "unknown_key"}
    assert (await api.ask("POST", "/v1/introspect", data={"token": token})).json == {"active": False}
    assert (await api.post("/v1/refresh-payload", {"token": token})).json["reason"] == "unknown_key"
    assert (await api.post("/v1/merge", {"tokens": [token]})).json["skipped"] == [{"index": 0, "reason": "unknown_key"}]
    for headers in ({"Authorization": f"Bearer {token}"}, {"Cookie": f"guest={token}"}):
        assert (await api.get("/v1/auth", headers=headers)).status == 401
        assert (await api.get("/v1/auth?mode=ensure", headers=headers)).headers["X-Guest-Id"] == ""
    assert (await exchange(api, form(token))).json["reason"] == "unknown_key"


@pytest.mark.parametrize(
    ("parameters", "error", "paths"),
    [
        ({"grant_type": None}, "invalid_request", ["/grant_type"]),
        ({"grant_type": "authorization_code"}, "unsupported_grant_type", ["/grant_type"]),
        ({"subject_token": None}, "invalid_request", ["/subject_token"]),
        ({"subject_token": ""}, "invalid_request", ["/subject_token"]),
        ({"subject_token_type": None}, "invalid_request", ["/subject_token_type"]),
        ({"subject_token_type": ACCESS}, "invalid_request", ["/subject_token_type"]),
        ({"audience": None}, "invalid_target", ["/audience"]),
        ({"audience": ""}, "invalid_target", ["/audience"]),
        ({"scope": "openid"}, "invalid_scope", ["/scope"]),
        ({"scope": "payload openid"}, "invalid_scope", ["/scope"]),
        (
            {"requested_token_type": "urn:ietf:params:oauth:token-type:saml2"},
            "invalid_request",
            ["/requested_token_type"],
        ),
        ({"resource": "https://search.example"}, "invalid_request", ["/resource"]),
        ({"actor_token": "x"}, "invalid_request", ["/actor_token"]),
        (
            {"scope": "openid", "audience": None, "resource": "x"},
            "invalid_request",
            ["/audience", "/resource", "/scope"],
        ),
    ],
    ids=lambda value: "-".join(f"{n}={v}"[:30] for n, v in value.items()) if isinstance(value, dict) else "",
)
async def test_wrong_parameters_are_all_named(
    api: Api, parameters: dict[str, str | None], error: str, paths: list[str]
) -> None:
    token = (await api.issue())["token"]

    answer = await exchange(api, form(token, **parameters))

    assert (answer.status, answer.headers["Content-Type"], answer.headers["Cache-Control"]) == (
        400,
        "application/json",
        "no-store",
    )
    problem = answer.json
    assert (problem["error"], problem["code"], problem["status"]) == (error, "invalid_request", 400)
    assert sorted(fault["path"] for fault in problem["errors"]) == paths
    assert problem["request_id"] == answer.headers["X-Request-Id"]


@pytest.mark.parametrize("name", ["grant_type", "subject_token", "subject_token_type", "scope"])
async def test_a_parameter_is_given_once(api: Api, name: str) -> None:
    good = form((await api.issue())["token"], scope="payload")

    answer = await exchange(api, FormData([*good.items(), (name, good[name])]))

    assert (answer.status, answer.json["error"]) == (400, "invalid_request")
    assert [fault["path"] for fault in answer.json["errors"]] == [f"/{name}"]


async def test_unknown_parameters_and_the_type_that_is_given_anyway_are_taken(api: Api) -> None:
    token = (await api.issue())["token"]

    answer = await exchange(api, form(token, requested_token_type=ACCESS, client_id="x", more="y", scope=""))

    assert (answer.status, answer.json["scope"]) == (200, "")


@pytest.mark.parametrize("bad", ["nonsense", "expired"])
async def test_a_bad_guest_token_is_a_bad_request_with_its_reason(api: Api, clock: HandClock, bad: str) -> None:
    token = (await api.issue(ttl=10))["token"]
    clock.now_s += 10

    answer = await exchange(api, form(token if bad == "expired" else bad))

    assert (answer.status, answer.json["error"], answer.json["code"]) == (400, "invalid_request", "invalid_token")
    assert answer.json["reason"] == {"nonsense": "malformed", "expired": "expired"}[bad]


@pytest.mark.parametrize(
    ("headers", "secret", "status"),
    [
        ({}, None, 401),
        ({"Authorization": "Bearer " + "w" * 20}, None, 401),
        ({"Authorization": encode_basic_auth("shop", "w" * 20)}, None, 401),
        ({}, "w" * 20, 401),
        ({"Authorization": "Bearer " + KEY}, None, 200),
        ({"X-API-Key": KEY}, None, 200),
        ({"Authorization": encode_basic_auth("shop", KEY)}, None, 200),
        ({}, KEY, 200),
    ],
    ids=["none", "wrong bearer", "wrong basic", "wrong secret", "bearer", "header", "basic", "secret"],
)
async def test_the_api_key_comes_as_oauth_clients_send_it(
    make_api: MakeApi, headers: dict[str, str], secret: str | None, status: int
) -> None:
    api = await make_api(GUEST_API_KEYS=KEY)
    token = (await api.post("/v1/issue", {}, headers={"X-API-Key": KEY})).json["token"]

    answer = await exchange(api, form(token, client_id="shop", client_secret=secret), **headers)

    assert answer.status == status
    if status == 401:
        assert (answer.json["error"], answer.json["code"]) == ("invalid_client", "unauthorized")
        assert answer.headers["WWW-Authenticate"].startswith('Basic realm="guest-sessions", Bearer ')


async def test_json_is_no_form(api: Api) -> None:
    answer = await exchange(api, "{}", **{"Content-Type": "application/json"})

    assert (answer.status, answer.json["error"]) == (415, "invalid_request")
    assert answer.headers["Content-Type"] == "application/json"


async def test_a_service_without_keys_says_that_it_is_not_ready(make_api: MakeApi) -> None:
    api = await make_api(
        GUEST_KEYS_DIR="none", GUEST_REDIS_URL="unix:///nonexistent/redis.sock", GUEST_KEYS_SECRET="A" * 43
    )

    answer = await exchange(api, form("a.b.c"))

    assert (answer.status, answer.json["error"], answer.json["code"]) == (503, "temporarily_unavailable", "not_ready")


@pytest.mark.parametrize(
    ("keys", "methods"), [({}, ["none"]), ({"GUEST_API_KEYS": KEY}, ["client_secret_basic", "client_secret_post"])]
)
async def test_discovery_names_the_endpoint(make_api: MakeApi, keys: dict[str, str], methods: list[str]) -> None:
    api = await make_api(GUEST_ISSUER="https://guests.example/base", **keys)

    for name in ("openid-configuration", "oauth-authorization-server"):
        document = (await api.get(f"/.well-known/{name}")).json

        assert document["token_endpoint"] == "https://guests.example/base/v1/token"
        assert document["grant_types_supported"] == [GRANT]
        assert document["token_endpoint_auth_methods_supported"] == methods
