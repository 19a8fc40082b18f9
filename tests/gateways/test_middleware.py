"""The drop-in middleware of examples/middleware, each in its small application, as a process of its own."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.gateways import EXAMPLES
from tests.gateways.guest_service import COOKIE, ISSUER, GuestService, forgeries, guest_service
from tests.gateways.processes import Answer, free_port, running, send, wait_until
from tests.gateways.test_ensuring import NAVIGATION, guest_cookies, token_in
from tests.gateways.test_guarding import Headers, cookie

API_KEY = "an-api-key-of-the-example"
FRAMEWORKS = {"aiohttp": "app.py", "starlette": "app.py", "django": "app.py", "express": "app.mjs"}


@dataclass(frozen=True)
class App:
    port: int
    service: GuestService

    def page(self, headers: Headers) -> Answer:
        answer = send(self.port, "/", headers=headers)
        assert answer.status == 200
        return answer

    def post(self, path: str, body: Any, headers: Headers) -> Answer:
        headers = [*headers, ("Content-Type", "application/json")]
        answer = send(self.port, path, method="POST", headers=headers, body=json.dumps(body).encode())
        assert answer.status == 200
        return answer


def interpreter(framework: str) -> str:
    if framework != "express":
        return sys.executable
    node = shutil.which("node")
    if node is None or not (EXAMPLES / "middleware/express/node_modules").is_dir():
        pytest.skip("node, or what npm installs in examples/middleware/express, is not here")
    return node


@contextlib.contextmanager
def application(framework: str, service: GuestService, folder: Path, **settings: str) -> Iterator[App]:
    port = free_port()
    environment = os.environ | {
        "GUEST_URL": f"http://{service.address}",
        "GUEST_ISSUER": ISSUER,
        "GUEST_COOKIE_NAME": COOKIE,
        "GUEST_API_KEY": API_KEY,
        **settings,
    }
    script = EXAMPLES / "middleware" / framework / FRAMEWORKS[framework]
    command = [interpreter(framework), script, str(port)]
    with running(command, port=port, log=folder / f"{framework}.log", env=environment):
        yield App(port, service)


@pytest.fixture(scope="module", params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def app(framework: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp(framework)
    with guest_service(folder, GUEST_API_KEYS=API_KEY) as service, application(framework, service, folder) as started:
        yield started


def new_guest(app: App) -> str:
    [set_cookie] = guest_cookies(app.page(NAVIGATION))
    return token_in(set_cookie)


def test_a_first_page_gets_a_guest_that_stays(app: App) -> None:
    first = app.page(NAVIGATION)
    [set_cookie] = guest_cookies(first)
    assert {"HttpOnly", "Path=/", "SameSite=Lax", "Secure"} <= {part.strip() for part in set_cookie.split(";")}
    assert f"max-age={34_560_000}" in set_cookie.lower()
    again = app.page([*NAVIGATION, *cookie(token_in(set_cookie))])
    assert again.json()["guest"]["sub"] == first.json()["guest"]["sub"]
    assert guest_cookies(again) == []


FETCH = [("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Dest", "empty")]


@pytest.mark.parametrize("headers", [[], FETCH, [*NAVIGATION, ("Sec-Purpose", "prefetch")]])
def test_what_is_no_page_navigation_gets_no_guest(app: App, headers: Headers) -> None:
    answer = app.page(headers)
    assert answer.json() == {"guest": None}
    assert guest_cookies(answer) == []


def test_a_forged_token_is_no_guest(app: App) -> None:
    for name, token in forgeries(new_guest(app)).items():
        assert not app.page(cookie(token)).json()["guest"], name


def test_a_forged_token_is_replaced_on_a_page(app: App) -> None:
    for name, token in forgeries(new_guest(app)).items():
        assert len(guest_cookies(app.page([*NAVIGATION, *cookie(token)]))) == 1, name


def test_what_is_saved_travels_in_the_cookie(app: App) -> None:
    token = new_guest(app)
    saved = app.post("/cart", ["cup"], cookie(token))
    [set_cookie] = guest_cookies(saved)
    claims = app.page(cookie(token_in(set_cookie))).json()["guest"]
    assert (claims["payload"], claims["ver"]) == ({"cart": ["cup"]}, 2)


def test_a_first_save_without_a_guest_makes_one(app: App) -> None:
    [set_cookie] = guest_cookies(app.post("/cart", ["bowl"], []))
    assert app.page(cookie(token_in(set_cookie))).json()["guest"]["payload"] == {"cart": ["bowl"]}


def test_a_login_hands_over_once_and_starts_a_clean_guest(app: App) -> None:
    [set_cookie] = guest_cookies(app.post("/cart", ["vase"], cookie(new_guest(app))))
    guest = token_in(set_cookie)
    first = app.post("/login", {}, cookie(guest))
    assert first.json()["merged"] is True
    assert first.json()["session"]["name"] == "Ada"
    assert first.json()["session"]["cart"][-1] == "vase"
    again = app.post("/login", {}, cookie(guest))
    assert again.json() == {"session": first.json()["session"], "merged": False}
    [next_cookie] = guest_cookies(first)
    after = app.page(cookie(token_in(next_cookie))).json()["guest"]
    assert after["payload"] == {}


@pytest.mark.parametrize("headers", [[], cookie("not-a-token")])
def test_a_login_without_a_good_token_goes_through(app: App, headers: Headers) -> None:
    assert app.post("/login", {}, headers).json()["merged"] is False


def test_without_the_service_known_guests_stay_and_no_cookie_is_replaced(framework: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as life:
        service = life.enter_context(guest_service(tmp_path, GUEST_API_KEYS=API_KEY))
        with application(framework, service, tmp_path) as warm, application(framework, service, tmp_path) as cold:
            token = new_guest(warm)
            session = warm.post("/login", {}, []).json()["session"]
            life.close()
            assert warm.page([*NAVIGATION, *cookie(token)]).json()["guest"]["sub"].startswith("G-")
            for answer in (warm.page(NAVIGATION), cold.page([*NAVIGATION, *cookie(token)])):
                assert answer.json() == {"guest": None}
                assert guest_cookies(answer) == []
            login = warm.post("/login", {}, cookie(token))
            assert login.json() == {"session": session, "merged": False}
            assert guest_cookies(login) == []


def test_an_expired_token_is_no_guest(framework: str, tmp_path: Path) -> None:
    with guest_service(tmp_path) as service, application(framework, service, tmp_path) as app:
        token = service.expired_token()
        wait_until(
            lambda: not app.page(cookie(token)).json()["guest"], what="the application refuses it too", within_s=20
        )


def test_a_guest_that_was_revoked_by_time_starts_anew_with_the_next_change(framework: str, tmp_path: Path) -> None:
    """An offline check cannot see such a revocation; the service's answer to a change tells."""
    with guest_service(tmp_path) as service, application(framework, service, tmp_path) as app:
        guest = service.issue()
        # The clock has to be past the second of the token's `orig_iat`.
        wait_until(lambda: service.issue()["issued_at"] > guest["issued_at"], what="the second is over")
        service.command("keys", "revoke", "--before", "now")
        wait_until(
            lambda: service.post("/v1/verify", {"token": guest["token"]}).json().get("reason") == "revoked",
            what="the service refuses the guest",
        )
        [set_cookie] = guest_cookies(app.post("/cart", ["cup"], cookie(guest["token"])))
        claims = app.page(cookie(token_in(set_cookie))).json()["guest"]
        assert claims["sub"] != guest["subject"]
        assert claims["payload"] == {"cart": ["cup"]}


def test_an_old_token_is_renewed_on_a_page_and_nowhere_else(framework: str, tmp_path: Path) -> None:
    # Older than minus one hour is every token.
    old = {"GUEST_RENEW_AFTER": "-3600"}
    with guest_service(tmp_path) as service, application(framework, service, tmp_path, **old) as app:
        guest = service.issue(payload={"cart": ["cup"]})
        assert guest_cookies(app.page([*FETCH, *cookie(guest["token"])])) == []
        renewed = app.page([*NAVIGATION, *cookie(guest["token"])])
        [set_cookie] = guest_cookies(renewed)
        assert token_in(set_cookie) != guest["token"]
        claims = renewed.json()["guest"]
        assert (claims["sub"], claims["ver"], claims["payload"]) == (guest["subject"], 1, {"cart": ["cup"]})
