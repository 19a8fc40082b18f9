"""What every gateway must do with /account, whether it checks tokens itself or asks /v1/auth."""

import posixpath
import re
from collections.abc import Sequence
from urllib.parse import unquote

import pytest

from tests.gateways.conftest import Gateway
from tests.gateways.guest_service import COOKIE, forgeries
from tests.gateways.processes import Answer, send, wait_until

Headers = list[tuple[str, str]]
IDENTITY = ("Id", "Version", "New", "Payload", "Token", "Access-Token")
FORGED = [(f"{prefix}{name}", "mallory") for prefix in ("X-Guest-", "x-guest-") for name in IDENTITY]
# CGI, WSGI, PHP and others read every character but letters and digits as the same (names: RFC 9110, section 5.6.2).
ALIASES = [(alias, "mallory") for each in "_!#$%&'*+.^`|~" for alias in (f"X{each}Guest-Id", f"X-Guest{each}Id")] + [
    (f"X_Guest_{name}", "mallory") for name in IDENTITY
]

PREFLIGHT = [("Origin", "https://app.shop.example"), ("Access-Control-Request-Method", "POST")]


def cookie(token: str) -> Headers:
    return [("Cookie", f"theme=dark; {COOKIE}={token}; other=1")]


def identity(answer: Answer) -> list[tuple[str, str]]:
    """Every header that an application may take for the guest's identity, if it has a value."""
    folded = [(re.sub("[^a-z0-9]", "-", name), value) for name, value in answer.json()["headers"]]
    return [(name, value) for name, value in folded if name.startswith("x-guest-") and value]


def named(name: str, headers: Sequence[tuple[str, str]]) -> list[str]:
    return [value for key, value in headers if key == name]


@pytest.mark.parametrize("carrier", ["cookie", "bearer"])
def test_a_good_token_passes_and_its_identity_is_forwarded(gateway: Gateway, carrier: str) -> None:
    guest = gateway.service.issue(payload={"cart": ["cup"]})
    headers = cookie(guest["token"]) if carrier == "cookie" else [("Authorization", f"Bearer {guest['token']}")]
    answer = send(gateway.port, "/account", headers=headers)
    assert answer.status == 200
    assert named("x-guest-id", identity(answer)) == [guest["subject"]]
    assert named("x-guest-version", identity(answer)) == ["1"]


def test_a_forged_token_does_not_pass(gateway: Gateway) -> None:
    reached = len(gateway.app.seen)
    for name, token in forgeries(gateway.service.issue()["token"]).items():
        for headers in (cookie(token), [("Authorization", f"Bearer {token}")]):
            assert send(gateway.port, "/account", headers=headers).status == 401, name
    assert len(gateway.app.seen) == reached


def test_an_expired_token_does_not_pass(gateway: Gateway) -> None:
    token = gateway.service.expired_token()
    wait_until(
        lambda: send(gateway.port, "/account", headers=cookie(token)).status == 401,
        what="the gateway refuses it too, after its own grace",
        within_s=80 if gateway.name == "envoy gateway jwt" else 20,  # a minute, that no setting takes away
    )


@pytest.mark.parametrize("path", ["/account", "/account/", "/account/orders?mode=ensure", "/account?a=1&mode=ensure"])
def test_nobody_passes_without_a_token(gateway: Gateway, path: str) -> None:
    reached = len(gateway.app.seen)
    answer = send(gateway.port, path, headers=[("X-Guest-Id", "G-mallory"), ("X-Forwarded-Uri", "/")])
    assert answer.status == 401
    assert answer.all("Set-Cookie") == []
    assert len(gateway.app.seen) == reached


def test_an_options_request_without_a_token_does_not_pass(gateway: Gateway) -> None:
    reached = len(gateway.app.seen)
    for headers in ([], PREFLIGHT):
        assert send(gateway.port, "/account", method="OPTIONS", headers=headers).status == 401
    assert len(gateway.app.seen) == reached


SPELLINGS = [
    *("//account", "//account//orders", "/./account", "/.//account", "/shop/../account", "/x/%2e%2e/account"),
    *("/%61ccount", "/%41ccount/orders", "/Account", "/ACCOUNT/orders"),
    *("/account%2Forders", "/account%2forders", "/%2faccount", "/%2Faccount/orders"),
    *("/x/..%2faccount", "/x%2f..%2faccount"),
    *("/account%5corders", "/%5Caccount", "/\\account", "/account\\orders", "/x/..\\account"),
    *("/account;x=1", "/account;/orders", "/account/;x=1", "/;/account", "/x/..;/account", "/x;y/../account"),
    *("/account.", "/account.json", "/account%20", "/account%00"),
]


def as_an_application_may_read_it(path: str) -> str:
    """Decoded, without parameters (RFC 3986, section 3.3), slashes merged and of one kind, dots resolved, one case."""
    segments = [segment.partition(";")[0] for segment in path.partition("?")[0].split("/")]
    return posixpath.normpath("/" + unquote("/".join(segments)).replace("\\", "/").lstrip("/")).casefold()


@pytest.mark.parametrize("path", SPELLINGS)
def test_no_other_spelling_of_the_path_reaches_the_application_as_the_guarded_one(gateway: Gateway, path: str) -> None:
    assert as_an_application_may_read_it(path).startswith("/account"), "a spelling that proves nothing"
    reached = len(gateway.app.seen)
    send(gateway.port, path)
    read = [as_an_application_may_read_it(request["path"]) for request in gateway.app.seen[reached:]]
    assert [each for each in read if each.startswith("/account")] == []


@pytest.mark.parametrize("path", ["/?next=/account", "/cart?next=%2Faccount%2Forders", "/?a=;b/c", "/cart;x=1?a=\\b"])
def test_what_is_not_guarded_stays_open_whatever_its_query(gateway: Gateway, path: str) -> None:
    answer = send(gateway.port, path)
    assert answer.status == 200
    # Traefik writes `&` for `;` in a query.
    assert answer.json()["path"].replace("&", ";") == path


@pytest.mark.parametrize("path", SPELLINGS)
def test_a_guest_passes_or_is_refused_whatever_the_spelling(gateway: Gateway, path: str) -> None:
    guest = gateway.service.issue()
    answer = send(gateway.port, path, headers=cookie(guest["token"]))
    if answer.status == 200:
        assert named("x-guest-id", identity(answer)) == [guest["subject"]]
    else:
        assert answer.status in {400, 404}


def test_a_bad_cookie_locks_nobody_out_of_what_is_not_guarded(gateway: Gateway) -> None:
    expired = gateway.service.expired_token()
    forged = forgeries(gateway.service.issue()["token"])
    for name, token in {**forged, "expired": expired, "three dots": "a.b.c", "empty": ""}.items():
        for carrier in (cookie(token), [("Authorization", f"Bearer {token}")]):
            answer = send(gateway.port, "/", headers=[*FORGED, *carrier])
            assert answer.status == 200, name
            # Envoy grants a second more than it should.
            assert identity(answer) == [] or (name, gateway.name) == ("expired", "envoy jwt_authn"), name


def test_a_foreign_bearer_does_not_spoil_a_good_cookie(gateway: Gateway) -> None:
    guest = gateway.service.issue()
    for credentials in ("Bearer eyJhbGciOiJIUzI1NiJ9.e30.AAAA", "Bearer opaque", "Basic Z3Vlc3Q6Z3Vlc3Q="):
        answer = send(gateway.port, "/account", headers=[("Authorization", credentials), *cookie(guest["token"])])
        assert answer.status == 200, credentials
        assert named("x-guest-id", identity(answer)) == [guest["subject"]]
        assert named("authorization", answer.json()["headers"]) == [credentials]


def test_a_good_bearer_passes_beside_a_bad_cookie(gateway: Gateway) -> None:
    guest = gateway.service.issue()
    answer = send(gateway.port, "/account", headers=[("Authorization", f"Bearer {guest['token']}"), *cookie("a.b.c")])
    if gateway.name == "apache":  # it can be set to look in one place, or in an order, but not in a second one
        assert answer.status == 401
    else:
        assert answer.status == 200
        assert named("x-guest-id", identity(answer)) == [guest["subject"]]


@pytest.mark.parametrize("path", ["/account", "/"])
def test_identity_headers_of_the_client_are_replaced(gateway: Gateway, path: str) -> None:
    guest = gateway.service.issue()
    answer = send(gateway.port, path, headers=[*FORGED, *cookie(guest["token"])])
    assert answer.status == 200
    assert "mallory" not in [value for _, value in identity(answer)]
    assert named("x-guest-id", identity(answer)) in ([guest["subject"]], [])


def test_identity_headers_of_the_client_are_stripped_where_there_is_no_guest(gateway: Gateway) -> None:
    answer = send(gateway.port, "/", headers=FORGED)
    assert answer.status == 200
    assert identity(answer) == []


@pytest.mark.parametrize("path", ["/account", "/"])
def test_no_alias_of_an_identity_header_gets_through(gateway: Gateway, path: str) -> None:
    answer = send(gateway.port, path, headers=[*ALIASES, *cookie(gateway.service.issue()["token"])])
    assert answer.status == 200
    assert "mallory" not in [value for _, value in identity(answer)]


@pytest.mark.parametrize("path", ["/account", "/"])
def test_no_alias_hides_behind_an_empty_one(gateway: Gateway, path: str) -> None:
    for aliases in (
        [("X_Guest_Id", "mallory"), ("X_Guest_New", "")],
        [("X_Guest_New", ""), ("X_Guest_Id", "mallory")],
        [("X.Guest.Id", "mallory"), ("X_GUEST_ID", "mallory"), ("x_guest_id", ""), ("X!Guest!New", "")],
    ):
        answer = send(gateway.port, path, headers=[*aliases, *cookie(gateway.service.issue()["token"])])
        assert answer.status == 200
        assert "mallory" not in [value for _, value in identity(answer)]


@pytest.mark.parametrize("named_there", ["X-Guest-Id", "x-guest-id, X-GUEST-VERSION", "X-GuX-Guest-Idest-Id"])
def test_no_client_has_the_identity_dropped_on_the_way(gateway: Gateway, named_there: str) -> None:
    """`Connection` names headers that are meant for one hop (RFC 9110, section 7.6.1)."""
    guest = gateway.service.issue()
    headers = [("Connection", f"close, {named_there}"), *cookie(guest["token"])]
    answer = send(gateway.port, "/account", headers=headers)
    assert answer.status == 200
    assert named("x-guest-id", identity(answer)) == [guest["subject"]]


def test_a_token_of_the_full_size_passes_beside_other_large_cookies(gateway: Gateway) -> None:
    guest = gateway.service.issue(payload={"note": "x" * 2400})
    assert guest["bytes"] > 3500
    cookies = f"a={'a' * 4000}; b={'b' * 3000}; {COOKIE}={guest['token']}"
    answer = send(gateway.port, "/account", headers=[("Cookie", cookies)])
    assert answer.status == 200
    assert named("x-guest-id", identity(answer)) == [guest["subject"]]


def test_a_body_reaches_the_application(gateway: Gateway) -> None:
    body = b"sku=cup&quantity=2" * 500
    headers = [*cookie(gateway.service.issue()["token"]), ("Content-Type", "application/x-www-form-urlencoded")]
    answer = send(gateway.port, "/account/address", method="POST", headers=headers, body=body)
    assert answer.status == 200
    assert (answer.json()["method"], answer.json()["body"]) == ("POST", body.decode())


def test_a_rotation_is_picked_up_and_refuses_nobody_at_any_time(gateway: Gateway) -> None:
    before = gateway.service.issue()
    gateway.service.command("keys", "rotate")
    gateway.running.take_new_keys()
    taken = {before["key_id"]}

    def passes_under_a_new_key() -> bool:
        fresh = gateway.service.issue()
        assert send(gateway.port, "/account", headers=cookie(fresh["token"])).status == 200
        taken.add(fresh["key_id"])
        return len(taken) > 1

    wait_until(passes_under_a_new_key, what="the next key signs")
    assert send(gateway.port, "/account", headers=cookie(before["token"])).status == 200
