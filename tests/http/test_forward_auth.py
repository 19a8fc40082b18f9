from base64 import urlsafe_b64decode
from typing import Any

import jwt
import msgspec
import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from service.http.cookies import CookiePolicy, GuestCookie
from service.http.forward_auth import ForwardAuth, ForwardAuthPolicy
from service.http.rate_limit import RateLimiter
from service.keys import keyring
from tests.api import Answer, Api
from tests.conftest import MakeApi
from tests.doubles import HandClock, make_test_key
from tests.merge.test_refresh import Shop
from tests.security.heads import get
from tests.security.wire import exchange

NAVIGATION = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
MONTH_S = 2_592_000


async def ensure(api: Api, method: str = "GET", path: str = "/v1/auth", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await api.ask(method, f"{path}?mode=ensure", headers=named)


def guest_of(answer: Answer) -> tuple[int, str | None, str | None]:
    return answer.status, answer.headers.get("X-Guest-Id"), answer.headers.get("X-Guest-New")


def cookie_of(answer: Answer) -> str:
    name, _, rest = answer.headers["Set-Cookie"].partition("=")
    assert name == "guest"
    return rest.partition(";")[0]


async def test_verify_answers_who_the_guest_is(api: Api) -> None:
    guest = await api.issue(payload={"a": 1})

    answer = await api.get("/v1/auth", headers={"Cookie": f"theme=dark; guest={guest['token']}"})

    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["X-Guest-Id"] == guest["subject"]
    assert (answer.headers["X-Guest-Version"], answer.headers["X-Guest-New"]) == ("1", "0")
    assert "Set-Cookie" not in answer.headers
    assert "X-Guest-Payload" not in answer.headers
    assert "X-Guest-Token" not in answer.headers


@pytest.mark.parametrize("mode", ["", "?mode=verify", "?mode=nonsense", "?mode=", "?mode=ENSURE"])
async def test_without_a_good_token_every_mode_but_ensure_refuses(api: Api, mode: str) -> None:
    answer = await api.get(f"/v1/auth{mode}", headers={**NAVIGATION, "Cookie": "guest=nonsense"})

    assert (answer.status, answer.body) == (401, b"")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="guest", error="invalid_token"'
    assert "X-Guest-Id" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [{}, {"Cookie": "guest="}, {"Cookie": "theme=dark"}, {"Authorization": "Bearer "}, {"Authorization": "Basic x"}],
)
async def test_who_sent_no_token_gets_no_error_about_it(api: Api, headers: dict[str, str]) -> None:
    answer = await api.get("/v1/auth", headers=headers)

    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="guest"')


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
@pytest.mark.parametrize("path", ["/v1/auth", "/v1/auth/", "/v1/auth/any/path%2F..?x=1"])
async def test_any_method_and_any_path_below_answer_alike(api: Api, method: str, path: str) -> None:
    guest = await api.issue()
    cookie = {"Cookie": f"guest={guest['token']}"}

    async with api.session.request(method, api.base_url + path, headers=cookie) as good:
        assert (good.status, good.headers["X-Guest-Id"]) == (200, guest["subject"])
    async with api.session.request(method, api.base_url + path, data=b"body") as none:
        assert none.status == 401


@pytest.mark.parametrize("path", ["a%0Ab", "%0D%0A", "%0A", "".join(f"%{byte:02X}" for byte in range(256))])
@pytest.mark.parametrize(("mode", "status"), [("ensure", 200), ("verify", 401)])
async def test_no_byte_of_a_path_below_changes_the_answer(api: Api, path: str, mode: str, status: int) -> None:
    url = URL(f"{api.base_url}/v1/auth/{path}?mode={mode}", encoded=True)

    async with api.session.get(url, headers=NAVIGATION) as answer:
        assert (answer.status, await answer.read()) == (status, b"")


@pytest.mark.parametrize(
    "headers",
    [
        {"Expect": "nonsense"},
        {"Content-Encoding": "gzip", "Content-Type": "nonsense"},
        {"Upgrade": "websocket", "Connection": "Upgrade"},
        {"Origin": "https://evil.example"},
        {"X-Forwarded-For": "%zz, ::1%eth0, [::1]:80, 1.2.3.4:99, ", "X-Forwarded-Method": "???"},
        {"Cookie": 'guest=; guest; =; ;;guest==; guest="', "Authorization": "Bearer"},
        {"Range": "bytes=9-1", "If-None-Match": "*", "If-Match": "nonsense"},
    ],
)
@pytest.mark.parametrize("query", ["mode=ensure", "mode=verify&for=/%ff%zz?a=%&mode=ensure;x#y"])
async def test_whatever_a_visitor_sends_the_status_is_200_or_401(api: Api, headers: dict[str, str], query: str) -> None:
    for method in ("GET", "POST"):
        async with api.session.request(
            method, URL(f"{api.base_url}/v1/auth?{query}", encoded=True), headers=headers
        ) as answer:
            assert answer.status == (200 if query == "mode=ensure" else 401)
            assert await answer.read() == b""


async def test_the_first_good_cookie_counts_and_else_the_bearer_token(api: Api, clock: HandClock) -> None:
    ended = await api.issue(ttl=1)
    clock.now_s += 2
    first, second, bearer = [await api.issue() for _ in range(3)]
    cookies = f"guest={ended['token']}; guest=x; guest={first['token']}; guest={second['token']}"
    authorization = {"Authorization": f"Bearer {bearer['token']}"}

    by_cookie = await api.get("/v1/auth", headers={"Cookie": cookies, **authorization})
    by_bearer = await api.get("/v1/auth", headers={"Cookie": "guest=x", **authorization})
    quoted = await api.get("/v1/auth", headers={"Cookie": f'guest="{second["token"]}"'})

    assert by_cookie.headers["X-Guest-Id"] == first["subject"]
    assert by_bearer.headers["X-Guest-Id"] == bearer["subject"]
    assert quoted.headers["X-Guest-Id"] == second["subject"]


async def test_a_cookie_whose_name_only_looks_like_ours_is_none_of_ours(api: Api) -> None:
    guest = await api.issue()

    answer = await api.get("/v1/auth", headers={"Cookie": f"xguest={guest['token']}; Guest={guest['token']}; guest"})

    assert answer.status == 401


async def test_a_navigation_without_a_token_gets_a_new_guest(api: Api) -> None:
    answer = await ensure(api, **NAVIGATION)

    assert (answer.status, answer.headers["X-Guest-New"], answer.headers["X-Guest-Version"]) == (200, "1", "1")
    verified = await api.verify(cookie_of(answer))
    assert (verified["subject"], verified["payload"]) == (answer.headers["X-Guest-Id"], {})


async def test_the_new_guest_is_known_from_then_on(api: Api) -> None:
    first = await ensure(api, **NAVIGATION)

    again = await ensure(api, **NAVIGATION, Cookie=f"guest={cookie_of(first)}")

    assert guest_of(again) == (200, first.headers["X-Guest-Id"], "0")
    assert "Set-Cookie" not in again.headers


NO_PAGES = [
    {},
    {"Sec-Fetch-Mode": "navigate"},
    {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"},
    {**NAVIGATION, "Sec-Purpose": "prefetch;prerender"},
    {**NAVIGATION, "Purpose": "prefetch"},
    {**NAVIGATION, "X-Forwarded-Method": "POST"},
    {**NAVIGATION, "X-Original-Method": "HEAD"},
]


@pytest.mark.parametrize("headers", NO_PAGES)
async def test_what_is_no_page_navigation_gets_no_guest_but_empty_headers(api: Api, headers: dict[str, str]) -> None:
    answer = await ensure(api, **headers)

    assert guest_of(answer) == (200, "", "")
    assert answer.headers["X-Guest-Version"] == ""
    assert "Set-Cookie" not in answer.headers


async def test_a_form_post_back_from_another_site_does_not_replace_the_guest(api: Api) -> None:
    # SameSite=Lax keeps the cookie at home on such a request; a new one would take the old one's place.
    answer = await ensure(api, "POST", **NAVIGATION, Sec_Fetch_Site="cross-site")

    assert "Set-Cookie" not in answer.headers


async def test_the_gateway_s_own_method_does_not_count_where_it_names_the_visitor_s(api: Api) -> None:
    answer = await ensure(api, "POST", **NAVIGATION, X_Forwarded_Method="GET")

    assert answer.headers["X-Guest-New"] == "1"


async def test_every_request_gets_a_guest_where_the_operator_says_so(make_api: MakeApi) -> None:
    api = await make_api(GUEST_ENSURE_ON="any")

    assert (await ensure(api, "POST")).headers["X-Guest-New"] == "1"


async def test_a_token_that_is_due_is_signed_again_for_the_same_guest(api: Api, clock: HandClock) -> None:
    guest = await api.issue(payload={"a": 1})
    clock.now_s += MONTH_S + 1

    answer = await ensure(api, **NAVIGATION, Cookie=f"guest={guest['token']}")

    renewed = await api.verify(cookie_of(answer))
    assert guest_of(answer) == (200, guest["subject"], "0")
    assert (renewed["subject"], renewed["version"], renewed["payload"]) == (guest["subject"], 1, {"a": 1})
    assert renewed["issued_at"] == int(clock.now_s)


@pytest.mark.parametrize("headers", NO_PAGES)
async def test_only_a_page_renews(api: Api, clock: HandClock, headers: dict[str, str]) -> None:
    """The cookie of an image or a prefetch could overtake the cookie of a change."""
    guest = await api.issue()
    clock.now_s += MONTH_S + 1

    answer = await ensure(api, Cookie=f"guest={guest['token']}", **headers)

    assert guest_of(answer) == (200, guest["subject"], "0")
    assert "Set-Cookie" not in answer.headers


async def test_any_request_renews_where_any_ensures(make_api: MakeApi, clock: HandClock) -> None:
    api = await make_api(GUEST_ENSURE_ON="any")
    guest = await api.issue()
    clock.now_s += MONTH_S + 1

    answer = await ensure(api, "POST", Cookie=f"guest={guest['token']}", Sec_Fetch_Dest="image")

    assert (await api.verify(cookie_of(answer)))["subject"] == guest["subject"]


PREFLIGHT = {"Access-Control-Request-Method": "PUT", "Origin": "https://app.example"}


@pytest.mark.parametrize(
    ("method", "headers", "new"),
    [
        pytest.param("OPTIONS", PREFLIGHT, "", id="preflight"),
        pytest.param("GET", {**PREFLIGHT, "X-Forwarded-Method": "OPTIONS"}, "", id="preflight of the visitor's"),
        pytest.param("OPTIONS", {}, "1", id="OPTIONS, no preflight"),
        pytest.param("POST", PREFLIGHT, "1", id="no OPTIONS"),
    ],
)
async def test_a_preflight_gets_no_guest(make_api: MakeApi, method: str, headers: dict[str, str], new: str) -> None:
    """The browser drops its cookie, and each would use up the rate limit."""
    api = await make_api(GUEST_ENSURE_ON="any")

    answer = await ensure(api, method, **headers)

    assert answer.headers["X-Guest-New"] == new
    assert ("Set-Cookie" in answer.headers) is (new == "1")


async def test_a_preflight_does_not_renew(make_api: MakeApi, clock: HandClock) -> None:
    api = await make_api(GUEST_ENSURE_ON="any")
    guest = await api.issue()
    clock.now_s += MONTH_S + 1

    answer = await ensure(api, "OPTIONS", Cookie=f"guest={guest['token']}", **PREFLIGHT)

    assert guest_of(answer) == (200, guest["subject"], "0")
    assert "Set-Cookie" not in answer.headers


async def test_a_service_worker_s_navigation_is_a_page(api: Api) -> None:
    answer = await ensure(api, Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="empty")

    assert answer.headers["X-Guest-New"] == "1"


@pytest.mark.parametrize(("partitioned", "new"), [("0", ""), ("1", "1")])
async def test_a_frame_is_a_page_where_cookies_are_partitioned(make_api: MakeApi, partitioned: str, new: str) -> None:
    api = await make_api(
        GUEST_ISSUER="https://shop.example", GUEST_COOKIE_SAMESITE="None", GUEST_COOKIE_PARTITIONED=partitioned
    )

    answer = await ensure(api, Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="iframe")

    assert answer.headers["X-Guest-New"] == new
    if new:
        assert answer.headers["Set-Cookie"].endswith("; SameSite=None; Secure; Partitioned")


async def test_a_bearer_token_is_never_given_a_cookie(api: Api, clock: HandClock) -> None:
    guest = await api.issue()
    clock.now_s += MONTH_S + 1

    answer = await ensure(api, **NAVIGATION, Authorization=f"Bearer {guest['token']}")

    assert guest_of(answer) == (200, guest["subject"], "0")
    assert "Set-Cookie" not in answer.headers


async def change(api: Api, token: str, payload: dict[str, Any]) -> str:
    answer = await api.post("/v1/refresh-payload", {"token": token, "payload": payload})
    return str(answer.json["token"])


async def test_of_one_guest_s_cookies_the_newest_counts(api: Api, clock: HandClock) -> None:
    """A domain that is set later leaves a host-only twin, which browsers send first."""
    first = (await api.issue())["token"]
    second = await change(api, first, {"a": 1})
    clock.now_s += 10
    renewed = (await api.post("/v1/refresh-payload", {"token": second})).json
    other = (await api.issue(payload={"theirs": 1}))["token"]

    answer = await api.get(
        "/v1/auth", headers={"Cookie": "; ".join(f"guest={each}" for each in (first, renewed["token"], second, other))}
    )

    assert (answer.headers["X-Guest-Id"], answer.headers["X-Guest-Version"]) == (renewed["subject"], "2")


@pytest.mark.parametrize("order", [1, -1])
async def test_the_first_good_cookie_says_which_guest(api: Api, order: int) -> None:
    mine = await api.issue()
    theirs = await api.issue()
    newer = await change(api, theirs["token"], {"a": 1})
    tokens = [mine["token"], newer][::order]

    answer = await api.get("/v1/auth", headers={"Cookie": "; ".join(f"guest={each}" for each in tokens)})

    assert answer.headers["X-Guest-Id"] == (mine if order == 1 else theirs)["subject"]


async def test_a_guest_under_an_old_name_moves_over(make_api: MakeApi) -> None:
    api = await make_api(GUEST_COOKIE_NAME="shop,guest")
    guest = await api.issue(payload={"a": 1})
    old = f"guest={guest['token']}"

    fetched = await ensure(api, Cookie=old)
    opened = await ensure(api, **NAVIGATION, Cookie=old)

    assert guest_of(fetched) == guest_of(opened) == (200, guest["subject"], "0")
    assert "Set-Cookie" not in fetched.headers
    assert opened.headers.getall("Set-Cookie")[0].startswith("shop=")
    moved = opened.headers["Set-Cookie"].partition(";")[0]
    again = await ensure(api, **NAVIGATION, Cookie=f"{old}; {moved}")
    assert guest_of(again) == (200, guest["subject"], "0")
    assert "Set-Cookie" not in again.headers


async def test_an_old_name_is_read_only_where_no_earlier_one_is_good(make_api: MakeApi) -> None:
    """A plain name could otherwise open what `__Host-` closes."""
    api = await make_api(GUEST_COOKIE_NAME="shop,guest")
    mine, planted = await api.issue(), await api.issue()
    newer = await change(api, planted["token"], {"a": 1})

    good = await api.get("/v1/auth", headers={"Cookie": f"guest={newer}; shop={mine['token']}"})
    bad = await api.get("/v1/auth", headers={"Cookie": f"guest={newer}; shop=nonsense"})

    assert good.headers["X-Guest-Id"] == mine["subject"]
    assert bad.headers["X-Guest-Id"] == planted["subject"]


async def test_verify_never_signs(api: Api, clock: HandClock) -> None:
    guest = await api.issue()
    clock.now_s += MONTH_S + 1

    answer = await api.get("/v1/auth", headers={"Cookie": f"guest={guest['token']}"})

    assert (answer.status, "Set-Cookie" in answer.headers) == (200, False)


async def test_a_due_token_that_no_longer_fits_stays_as_it_is(make_api: MakeApi, clock: HandClock) -> None:
    roomy = await make_api(GUEST_MAX_TOKEN_BYTES="8000")
    guest = await roomy.issue(payload={"a": "x" * 3000})
    clock.now_s += MONTH_S + 1
    tight = await make_api()

    for api in (roomy, tight):
        answer = await ensure(api, **NAVIGATION, Cookie=f"guest={guest['token']}")
        assert guest_of(answer) == (200, guest["subject"], "0")
        assert "Set-Cookie" not in answer.headers


async def test_payload_and_token_go_upstream_where_named(make_api: MakeApi) -> None:
    api = await make_api(GUEST_AUTH_HEADERS="payload,token")
    guest = await api.issue(payload={"lang": "de", "ö": "\r\n"})

    known = await api.get("/v1/auth", headers={"Cookie": f"guest={guest['token']}"})
    nobody = await ensure(api)

    encoded = known.headers["X-Guest-Payload"]
    assert msgspec.json.decode(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))) == guest["payload"]
    assert "=" not in encoded
    assert known.headers["X-Guest-Token"] == guest["token"]
    assert (nobody.headers["X-Guest-Payload"], nobody.headers["X-Guest-Token"]) == ("", "")


async def test_past_the_rate_limit_there_is_no_guest_and_still_200(make_api: MakeApi, clock: HandClock) -> None:
    api = await make_api(GUEST_RATE_LIMIT="2", GUEST_TRUSTED_PROXIES="127.0.0.0/8")

    async def minted(forwarded: str) -> bool:
        answer = await ensure(api, **NAVIGATION, X_Forwarded_For=forwarded)
        assert answer.status == 200
        return answer.headers["X-Guest-New"] == "1"

    assert [await minted("203.0.113.7") for _ in range(3)] == [True, True, False]
    assert await minted("203.0.113.8")
    clock.now_s += 0.5
    assert [await minted("203.0.113.7") for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("203.0.113.7", "203.0.113.7, 127.0.0.9", True),
        ("203.0.113.7", "198.51.100.1, 203.0.113.7", True),
        ("203.0.113.7", "203.0.113.7:4711", True),
        ("203.0.113.7", "::ffff:203.0.113.7", True),
        ("2001:db8::1", "[2001:db8::2]:443", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("203.0.113.7", "203.0.113.8", False),
        ("nonsense", "unknown", True),
    ],
)
async def test_a_client_is_the_last_address_that_no_trusted_proxy_has(
    make_api: MakeApi, one: str, other: str, *, same: bool
) -> None:
    api = await make_api(GUEST_RATE_LIMIT="1", GUEST_TRUSTED_PROXIES="127.0.0.0/8")

    first = await ensure(api, **NAVIGATION, X_Forwarded_For=one)
    second = await ensure(api, **NAVIGATION, X_Forwarded_For=other)

    assert first.headers["X-Guest-New"] == "1"
    assert (second.headers["X-Guest-New"] == "") is same


async def test_a_caller_that_is_no_trusted_proxy_cannot_choose_its_address(make_api: MakeApi) -> None:
    api = await make_api(GUEST_RATE_LIMIT="1", GUEST_TRUSTED_PROXIES="10.0.0.0/8")

    news = [
        (await ensure(api, **NAVIGATION, X_Forwarded_For=address)).headers["X-Guest-New"]
        for address in ("203.0.113.7", "203.0.113.8")
    ]

    assert news == ["1", ""]


async def test_sixteen_kilobytes_of_headers_are_no_error(api: Api) -> None:
    guest = await api.issue()
    crowd = "; ".join(f"c{number}={'x' * 2000}" for number in range(7))

    answer = await api.get("/v1/auth", headers={"Cookie": f"{crowd}; guest={guest['token']}"})

    assert answer.headers["X-Guest-Id"] == guest["subject"]


@pytest.mark.parametrize(
    ("policy", "written"),
    [
        ({}, "guest=t; Max-Age=60; HttpOnly; Path=/; SameSite=Lax"),
        ({"secure": True, "names": ("__Host-g",)}, "__Host-g=t; Max-Age=60; HttpOnly; Path=/; SameSite=Lax; Secure"),
        (
            {"domain": "shop.example", "same_site": "None", "secure": True},
            "guest=t; Max-Age=60; HttpOnly; Path=/; SameSite=None; Domain=shop.example; Secure",
        ),
        (
            {"same_site": "None", "secure": True, "partitioned": True},
            "guest=t; Max-Age=60; HttpOnly; Path=/; SameSite=None; Secure; Partitioned",
        ),
        ({"names": ("new", "old")}, "new=t; Max-Age=60; HttpOnly; Path=/; SameSite=Lax"),
    ],
)
def test_the_cookie_has_the_attributes_of_its_policy(policy: dict[str, Any], written: str) -> None:
    cookie = GuestCookie(
        CookiePolicy(**{"names": ("guest",), "domain": None, "same_site": "Lax", "secure": False, **policy})
    )

    assert cookie.set("t", max_age_s=60) == written


def test_the_cookie_lives_as_long_as_its_token_and_at_most_400_days() -> None:
    cookie = GuestCookie(CookiePolicy(names=("g",), domain=None, same_site="Lax", secure=False))

    assert [f"Max-Age={age};" in cookie.set("t", max_age_s=age) for age in (1, 34_560_000)] == [True, True]
    assert "Max-Age=34560000;" in cookie.set("t", max_age_s=34_560_001)


@pytest.mark.parametrize("forged", [True, False], ids=["bad_signature", "expired"])
async def test_of_many_cookies_eight_signatures_are_checked(api: Api, clock: HandClock, *, forged: bool) -> None:
    ended = (await api.issue(ttl=1))["token"]
    clock.now_s += 2
    bad = f"guest={ended[:-8]}AAAAAAAA" if forged else f"guest={ended}"
    good = f"guest={(await api.issue())['token']}"

    eighth = await api.get("/v1/auth", headers={"Cookie": "; ".join([bad] * 7 + [good])})
    ninth = await api.get("/v1/auth", headers={"Cookie": "; ".join([bad] * 8 + [good])})

    assert (eighth.status, ninth.status) == (200, 401)


@pytest.mark.parametrize("junk", ["x", "a.b.c", "eyJhbGciOiJFUzI1NiJ9.e30.AAAA"])
async def test_what_costs_no_signature_hides_a_good_cookie_only_past_what_a_browser_keeps(api: Api, junk: str) -> None:
    good = f"guest={(await api.issue())['token']}"

    last = await api.get("/v1/auth", headers={"Cookie": "; ".join([f"guest={junk}"] * 179 + [good])})
    beyond = await api.get("/v1/auth", headers={"Cookie": "; ".join([f"guest={junk}"] * 180 + [good])})

    assert (last.status, beyond.status) == (200, 401)


SPACES = [chr(code) for code in range(0x80, 0x10000) if chr(code).isspace()] + ["\ufeff"]


@pytest.mark.parametrize("space", [*(each.encode() for each in SPACES), b"\xa0", b"\x85"], ids=bytes.hex)
async def test_a_space_before_the_name_is_another_cookie(api: Api, space: bytes) -> None:
    planted, own = await api.issue(), await api.issue()
    cookie = space + b"guest=" + planted["token"].encode()

    alone = await exchange(api, get(b"Cookie: " + cookie, target=b"/v1/auth"))
    both = await exchange(api, get(b"Cookie: " + cookie + b"; guest=" + own["token"].encode(), target=b"/v1/auth"))

    assert alone.status == 401
    assert (both.status, both.headers["x-guest-id"]) == (200, own["subject"])


async def access_claims(api: Api, raw_token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of an access token, verified offline as a service behind the gateway would."""
    jwks = (await api.get("/.well-known/jwks.json")).json
    header = jwt.get_unverified_header(raw_token)
    [key] = [jwt.PyJWK(each) for each in jwks["keys"] if each["kid"] == header["kid"]]
    claims: dict[str, Any] = jwt.decode(
        raw_token, key, algorithms=["ES256"], audience="shop", options={"verify_exp": False, "verify_iat": False}
    )
    return header, claims


async def test_an_access_token_goes_upstream_where_named(make_api: MakeApi) -> None:
    api = await make_api(GUEST_AUTH_HEADERS="access", GUEST_ACCESS_AUDIENCE="shop")
    guest = await api.issue(payload={"cart": ["cup"]})

    known = await api.get("/v1/auth", headers={"Cookie": f"guest={guest['token']}"})
    new = await ensure(api, **NAVIGATION)
    nobody = await ensure(api)

    header, claims = await access_claims(api, known.headers["X-Guest-Access-Token"])
    assert (header["typ"], claims["sub"], claims["aud"]) == ("at+jwt", guest["subject"], "shop")
    assert (claims["exp"] - claims["iat"], claims["client_id"]) == (300, "guest-sessions")
    assert "payload" not in claims
    _, of_new = await access_claims(api, new.headers["X-Guest-Access-Token"])
    assert of_new["sub"] == new.headers["X-Guest-Id"]
    assert nobody.headers["X-Guest-Access-Token"] == ""


async def test_an_access_token_is_given_again_for_half_its_life(make_api: MakeApi, clock: HandClock) -> None:
    api = await make_api(GUEST_AUTH_HEADERS="access", GUEST_ACCESS_AUDIENCE="shop")
    cookie = {"Cookie": f"guest={(await api.issue())['token']}"}

    async def given() -> str:
        return (await api.get("/v1/auth", headers=cookie)).headers["X-Guest-Access-Token"]

    first = await given()
    clock.now_s += 140
    again = await given()
    clock.now_s += 20

    assert again == first
    assert await given() != first


@pytest.mark.parametrize("mode", ["verify", "ensure"])
async def test_a_guest_is_known_while_no_key_signs(clock: HandClock, mode: str) -> None:
    """Else `/v1/auth` responded with 503, which nginx makes a 500."""
    shop = Shop(clock, access_ttl_s=300)
    policy = ForwardAuthPolicy(
        ensure_on="navigate",
        headers=frozenset({"access"}),
        rate_limit_per_s=0,
        trusted_proxies=(),
        access_audience=("shop",),
    )
    cookie = GuestCookie(CookiePolicy(names=("guest",), domain=None, same_site="Lax", secure=False))
    auth = ForwardAuth(
        policy, tokens=shop.tokens, merges=shop.merges, cookie=cookie, limiter=RateLimiter(0, clock=clock)
    )
    raw_token = await shop.issue({})
    successor = make_test_key("k2", now_s=clock())
    ring = keyring.promote(keyring.stage(shop.source.loaded.ring, successor), now_s=clock() + 1)
    shop.source.change(keyring.revoke(ring, "k2", now_s=clock() + 2))
    headers = CIMultiDictProxy(CIMultiDict({**NAVIGATION, "Cookie": f"guest={raw_token}"}))

    decision = await (auth.verify(headers) if mode == "verify" else auth.ensure(headers, method="GET", peer=None))

    assert decision is not None
    assert (decision.outcome, decision.headers["X-Guest-Access-Token"]) == ("known", "")


async def test_an_access_token_is_no_guest(make_api: MakeApi) -> None:
    api = await make_api(GUEST_AUTH_HEADERS="access", GUEST_ACCESS_AUDIENCE="shop")
    guest = await api.issue()
    access = (await api.get("/v1/auth", headers={"Cookie": f"guest={guest['token']}"})).headers["X-Guest-Access-Token"]

    by_cookie = await api.get("/v1/auth", headers={"Cookie": f"guest={access}"})
    verified = await api.post("/v1/verify", {"token": access})

    assert by_cookie.status == 401
    assert verified.json == {"active": False, "reason": "unknown_key"}


async def test_a_superseded_cookie_gets_the_newest_state_on_a_page(api: Api) -> None:
    """An answer that came late would otherwise leave the browser with the older state."""
    old = await api.issue(payload={"cart": ["cup"]})
    await change(api, old["token"], {"cart": ["cup", "pot"]})
    cookie = f"guest={old['token']}"

    fetched = await ensure(api, Cookie=cookie)
    opened = await ensure(api, **NAVIGATION, Cookie=cookie)

    assert "Set-Cookie" not in fetched.headers
    assert guest_of(opened) == (200, old["subject"], "0")
    assert opened.headers["X-Guest-Version"] == "2"
    assert (await api.verify(cookie_of(opened)))["payload"] == {"cart": ["cup", "pot"]}
