"""What every gateway must do with /account, whether it checks tokens itself or asks /v1/auth."""

import re
from collections.abc import Sequence

import pytest

from tests.gateways.conftest import Gateway
from tests.gateways.guest_service import COOKIE, forgeries
from tests.gateways.processes import Answer, send, wait_until

Headers = list[tuple[str, str]]
IDENTITY = ("Id", "Version", "New", "Payload", "Token")
FORGED = [(f"{prefix}{name}", "mallory") for prefix in ("X-Guest-", "x-guest-") for name in IDENTITY]
# CGI, WSGI, PHP and others read every character but letters and digits as the same (names: RFC 9110, section 5.6.2).
ALIASES = [(alias, "mallory") for each in "_!#$%&'*+.^`|~" for alias in (f"X{each}Guest-Id", f"X-Guest{each}Id")] + [
    (f"X_Guest_{name}", "mallory") for name in IDENTITY
]


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
        what="the gateway refuses it too, within its own second of grace",
        within_s=20,
    )


@pytest.mark.parametrize("path", ["/account", "/account/", "/account/orders?mode=ensure", "/account?a=1&mode=ensure"])
def test_nobody_passes_without_a_token(gateway: Gateway, path: str) -> None:
    reached = len(gateway.app.seen)
    answer = send(gateway.port, path, headers=[("X-Guest-Id", "G-mallory"), ("X-Forwarded-Uri", "/")])
    assert answer.status == 401
    assert answer.all("Set-Cookie") == []
    assert len(gateway.app.seen) == reached


@pytest.mark.parametrize("path", ["//account", "/./account", "/shop/../account", "/%61ccount", "/account%2Forders"])
def test_no_other_spelling_of_the_path_reaches_the_application_as_the_guarded_one(gateway: Gateway, path: str) -> None:
    answer = send(gateway.port, path)
    if answer.status == 200:
        assert answer.json()["path"] != "/account"


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
    if gateway.name == "apache":  # its configuration knows no pattern to strip by, and refuses instead
        assert answer.status == 400
    else:
        assert answer.status == 200
        assert "mallory" not in [value for _, value in identity(answer)]


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
