"""Handing over at login in the auth systems of examples/login, each as a process of its own with the real service."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from tests.gateways.front import Front, front
from tests.gateways.guest_service import guest_service
from tests.gateways.processes import Answer, running, send
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/login"
API_KEY = "an-api-key-of-the-example"
ISSUER = "http://localhost:8000"  # so that the cookie's name is `guest`
NAVIGATION = [("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")]


@dataclass
class Browser:
    """One visitor of the application on `port`: keeps cookies as a browser does."""

    port: int
    cookies: dict[str, str] = field(default_factory=dict)

    def send(self, path: str, *, method: str = "GET", body: Any = None, form: dict[str, str] | None = None) -> Answer:
        origin = f"http://localhost:{self.port}"
        headers = [*NAVIGATION, ("Origin", origin)]
        headers.append(("St-Auth-Mode", "cookie"))  # as SuperTokens' front end asks for
        headers.append(("Cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items())))
        kind = "application/json" if form is None else "application/x-www-form-urlencoded"
        content = None if method == "GET" else (json.dumps(body) if form is None else urlencode(form)).encode()
        answer = send(self.port, path, method=method, headers=[*headers, ("Content-Type", kind)], body=content)
        for line in answer.all("Set-Cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            if "max-age=0" in line.lower() or "1970" in line:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return answer

    def post(self, path: str, body: Any) -> Answer:
        answer = self.send(path, method="POST", body=body)
        assert answer.status < 400, answer
        return answer

    def account(self) -> dict[str, Any]:
        answer = self.send("/account")
        assert answer.status == 200, answer
        account: dict[str, Any] = answer.json()
        return account


def by_supertokens(browser: Browser) -> None:
    fields = [{"id": "email", "value": "ada@shop.example"}, {"id": "password", "value": "correct horse 1"}]
    assert browser.post("/auth/signin", {"formFields": fields}).json()["status"] == "OK"


def by_better_auth(browser: Browser) -> None:
    account = {"email": "ada@shop.example", "password": "correct horse"}
    # The first login makes the account.
    if browser.send("/auth/sign-in/email", method="POST", body=account).status != 200:
        signed_up = browser.send("/auth/sign-up/email", method="POST", body=account | {"name": "Ada"})
        if signed_up.status != 200:  # another device was quicker
            browser.post("/auth/sign-in/email", account)


def by_authjs(browser: Browser) -> None:
    token = browser.send("/auth/csrf").json()["csrfToken"]
    form = {"name": "ada", "csrfToken": token}
    assert browser.send("/auth/callback/credentials", method="POST", form=form).status == 302


def by_django(browser: Browser) -> None:
    browser.post("/login", {"username": "ada", "password": "correct horse"})


def by_authlib(browser: Browser) -> None:
    end_openid_login(browser, begin_openid_login(browser))


def begin_openid_login(browser: Browser) -> str:
    """Returns where the identity provider sends the browser back to."""
    there = urlsplit(browser.send("/login").all("Location")[0])
    assert there.port is not None
    [back] = send(there.port, f"{there.path}?{there.query}").all("Location")
    return back.partition(f":{browser.port}")[2]


def end_openid_login(browser: Browser, back: str) -> None:
    assert browser.send(back).all("Location") == ["/account"]


@dataclass(frozen=True)
class System:
    """An auth system: its example, how a visitor logs in, and the double that stands for its server."""

    example: str
    log_in: Callable[[Browser], None]
    double: str | None = None
    setting: str = ""


SYSTEMS = {
    "supertokens-node": System("supertokens.mjs", by_supertokens, "supertokens_core.py", "SUPERTOKENS_URL"),
    "supertokens-python": System("supertokens_login.py", by_supertokens, "supertokens_core.py", "SUPERTOKENS_URL"),
    "better-auth": System("better_auth.mjs", by_better_auth),
    "authjs": System("authjs.mjs", by_authjs),
    "django": System("django_login.py", by_django),
    "authlib": System("authlib_login.py", by_authlib, "identity_provider.py", "OIDC_ISSUER"),
}


@contextlib.contextmanager
def application(system: System, url: str, folder: Path) -> Iterator[int]:
    """The example, with the double that it needs; gives the port."""
    command = [sys.executable]
    if system.example.endswith(".mjs"):
        node = shutil.which("node")
        if node is None or not (EXAMPLES / "node_modules/guest-sessions").is_dir():
            pytest.skip("node, or what `make test-login` installs in examples/login, is not here")
        command = [node]
    environment = os.environ | {
        "GUEST_URL": url,
        "GUEST_ISSUER": ISSUER,
        "GUEST_API_KEY": API_KEY,
        "AUTH_SECRET": "a secret of the test, which is long enough",
        "SESSION_SECRET": "a secret of the test",
        "DJANGO_SECRET_KEY": "a secret of the test",
        "DATABASE": str(folder / "shop.sqlite3"),
        "ADAS_PASSWORD": "correct horse",
        "OIDC_CLIENT_ID": "shop",
        "OIDC_CLIENT_SECRET": "a secret of the test",
        "BETTER_AUTH_TELEMETRY": "0",
        "NO_PROXY": "127.0.0.1,localhost",
    }
    with contextlib.ExitStack() as life:
        if system.double:
            port = free_port()
            double = [sys.executable, Path(__file__).parent / system.double, port]
            life.enter_context(running(double, port=port, log=folder / "double.log"))
            environment[system.setting] = f"http://127.0.0.1:{port}"
        port = free_port()
        command = [*command, str(EXAMPLES / system.example), str(port)]
        life.enter_context(running(command, port=port, log=folder / "application.log", env=environment))
        yield port


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> System:
    return SYSTEMS[request.param]


@pytest.fixture
def shop(system: System, tmp_path: Path) -> Iterator[tuple[int, Front]]:
    """The port of the application, and what stands before the service."""
    with (
        guest_service(tmp_path, GUEST_API_KEYS=API_KEY, GUEST_ISSUER=ISSUER) as service,
        front(service) as before,
        application(system, before.url, tmp_path) as port,
    ):
        yield port, before


def visitor_with(port: int, *lines: str) -> Browser:
    browser = Browser(port)
    browser.send("/")
    browser.post("/cart", [{"sku": sku, "qty": 1} for sku in lines])
    return browser


def skus(account: dict[str, Any]) -> list[str]:
    return sorted(line["sku"] for line in account["cart"])


def test_a_cart_survives_the_login_once(system: System, shop: tuple[int, Front]) -> None:
    browser = visitor_with(shop[0], "cup")
    guest = dict(browser.cookies)

    system.log_in(browser)

    assert skus(browser.account()) == ["cup"]
    assert browser.account()["name"] == "Ada"
    assert browser.cookies["guest"] != guest["guest"]
    assert "cup" not in browser.send("/").body.decode()  # the next guest is empty

    again = Browser(shop[0], guest)
    system.log_in(again)
    assert again.account()["cart"] == [{"sku": "cup", "qty": 1}]


def test_carts_of_three_devices_at_once_come_together(system: System, shop: tuple[int, Front]) -> None:
    devices = [visitor_with(shop[0], sku) for sku in ("cup", "bowl", "vase")]
    system.log_in(Browser(shop[0]))  # so that better-auth's account is there

    with ThreadPoolExecutor(3) as at_once:
        list(at_once.map(system.log_in, devices))

    last = Browser(shop[0])
    system.log_in(last)
    assert skus(last.account()) == ["bowl", "cup", "vase"]


def test_a_login_goes_through_without_the_service(system: System, shop: tuple[int, Front]) -> None:
    browser = visitor_with(shop[0], "cup")
    guest = browser.cookies["guest"]

    shop[1].state = "bad gateway"
    system.log_in(browser)

    assert skus(browser.account()) == []
    assert browser.cookies["guest"] == guest  # the next login hands it over


def test_a_login_without_a_guest_goes_through(system: System, shop: tuple[int, Front]) -> None:
    browser = Browser(shop[0])
    system.log_in(browser)
    assert skus(browser.account()) == []


def test_authlibs_callback_hands_over_no_other_guest(tmp_path: Path) -> None:
    with (
        guest_service(tmp_path, GUEST_API_KEYS=API_KEY, GUEST_ISSUER=ISSUER) as service,
        application(SYSTEMS["authlib"], f"http://{service.address}", tmp_path) as port,
    ):
        mine, planted = visitor_with(port, "cup"), visitor_with(port, "bomb")
        back = begin_openid_login(mine)
        mine.cookies["guest"] = planted.cookies["guest"]

        end_openid_login(mine, back)

        assert mine.account()["cart"] == []
        assert mine.cookies["guest"] == planted.cookies["guest"]
