"""The guest's cookie in a real browser over TLS: planted ones, twins, service workers, frames."""

import contextlib
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page

from tests.clients.stage import Stage, staged
from tests.gateways.echo import Echo, echo
from tests.gateways.gateways import ASKING, Site
from tests.gateways.guest_service import COOKIE, GuestService, guest_service
from tests.gateways.tls import https_front

DOMAIN = "shop.test"
HOST = f"app.{DOMAIN}"


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context() as context:
        yield context


@dataclass(frozen=True)
class OtherSite:
    """A server of other sites: evil.shop.test, whose pages set cookies for the shop's domain, and those with frames."""

    port: int

    def url(self, host: str) -> str:
        return f"https://{host}:{self.port}"

    def plants(self, context: BrowserContext, name: bytes, value: str, *, way: str) -> bool:
        """Whether the visitor's browser has kept the cookie and sends it, byte for byte."""
        page, url = context.new_page(), self.url(f"evil.{DOMAIN}")
        cookie = name + f"={value}; Domain={DOMAIN}; Path=/; Secure".encode()
        if way == "Set-Cookie":
            page.goto(f"{url}/cookie?{urllib.parse.quote(cookie)}")
        else:
            page.goto(url)
            page.evaluate("cookie => { document.cookie = cookie }", cookie.decode())
        sent = echoed(page, url).get("cookie", "")
        page.close()
        return f"{name.decode('latin-1')}={value}" in sent.split("; ")


def echoed(page: Page, url: str) -> dict[str, str]:
    """The headers with which the application was asked for the page."""
    response = page.goto(url)
    assert response is not None
    return dict(response.json()["headers"])


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtherSite]:
    with echo() as app, https_front(app.port, tmp_path_factory.mktemp("elsewhere")) as front:
        yield OtherSite(front.port)


@dataclass(frozen=True)
class Gateway:
    """A gateway with the echo as its application."""

    url: str
    app: Echo
    service: GuestService

    def lets_through(self, context: BrowserContext, path: str) -> bool:
        page, before = context.new_page(), len(self.app.seen)
        with contextlib.suppress(Error):  # Chromium shows a refusal without a body as an error of its own
            page.goto(self.url + path)
        page.close()
        return path in [request["path"] for request in self.app.seen[before:]]


@contextlib.contextmanager
def https_gateway(name: str, folder: Path, **settings: str) -> Iterator[Gateway]:
    with (
        guest_service(folder, **settings) as service,
        echo() as app,
        ASKING[name](Site(service, app.port, folder)) as running,
        https_front(running.port, folder) as front,
    ):
        yield Gateway(f"https://{HOST}:{front.port}", app, service)


@dataclass(frozen=True)
class Shop:
    """The conformance application of FastAPI, in one visitor's browser."""

    url: str
    page: Page

    def guest(self) -> Any:
        """Opens the page: the guest that the application sees."""
        response = self.page.goto(self.url)
        assert response is not None
        return response.json()["guest"]

    def post(self, path: str, body: Any) -> Any:
        """The JSON that a script of the page gets."""
        return self.page.evaluate(
            """async ([path, body]) => {
                const headers = {"Content-Type": "application/json"}
                const response = await fetch(path, {method: "POST", headers, body: JSON.stringify(body)})
                return await response.json()
            }""",
            [path, body],
        )


@contextlib.contextmanager
def https_shop(context: BrowserContext, stage: Stage, folder: Path) -> Iterator[Shop]:
    with https_front(stage.port, folder) as front:
        yield Shop(f"https://{HOST}:{front.port}", context.new_page())


@pytest.fixture(scope="module")
def fastapi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("fastapi")
    with guest_service(folder) as service, staged("asgi", service, folder) as stage:
        stage.warm_up()
        yield stage


SPACES = {f"U+{ord(each):04X}": each.encode() for each in "\x85\xa0\u2000\u3000"}
RAW_SPACES = {"byte 85": b"\x85", "byte A0": b"\xa0"}
WAYS = ["Set-Cookie", "document.cookie"]
PLANTED = [
    *(pytest.param(space, way, id=f"{name}, {way}") for name, space in SPACES.items() for way in WAYS),
    # A script sets text, so that no single byte comes of it.
    *(pytest.param(space, "Set-Cookie", id=f"{name}, Set-Cookie") for name, space in RAW_SPACES.items()),
]


@pytest.mark.parametrize(("space", "way"), PLANTED)
def test_a_planted_guest_does_not_get_into_the_account(
    space: bytes, way: str, fastapi: Stage, elsewhere: OtherSite, context: BrowserContext, tmp_path: Path
) -> None:
    planted = fastapi.service.issue(payload={"cart": ["planted"], "address": "the attacker's"})
    assert elsewhere.plants(context, space + COOKIE.encode(), planted["token"], way=way)

    with https_shop(context, fastapi, tmp_path) as shop:
        guest = shop.guest()
        own = f"own of {guest['id']}"
        shop.post("/patch", {"cart": [own]})
        login = shop.post("/login", {})

        assert (guest["is_new"], guest["payload"]) == (True, {})
        assert [each["subject"] for each in login["guests"]] == [guest["id"]]
        assert login["session"]["cart"][-1] == own
        assert "planted" not in login["session"]["cart"]
        assert "address" not in login["session"]
        assert shop.guest()["id"] not in {guest["id"], planted["subject"]}


@pytest.mark.parametrize("way", WAYS)
def test_the_browser_keeps_no_planted_name_whose_prefix_it_sees(
    way: str, elsewhere: OtherSite, context: BrowserContext
) -> None:
    """Else there would be nothing to protect."""
    assert elsewhere.plants(context, b"other", "1", way=way)
    for before in ("", " ", "\t", "="):
        assert not elsewhere.plants(context, f"{before}{COOKIE}".encode(), "planted", way=way)
    assert [each["name"] for each in context.cookies() if "guest" in each["name"]] == []


@pytest.mark.parametrize("name", ASKING)
def test_planted_guests_are_nobody_behind_a_gateway(
    name: str, elsewhere: OtherSite, context: BrowserContext, tmp_path: Path
) -> None:
    with https_gateway(name, tmp_path) as gateway:
        for space in (SPACES | RAW_SPACES).values():
            token = gateway.service.issue()["token"]
            assert elsewhere.plants(context, space + COOKIE.encode(), token, way="Set-Cookie")

        assert not gateway.lets_through(context, "/account")
        page = context.new_page()
        first, second, account = (echoed(page, gateway.url + path) for path in ("/", "/", "/account"))
        assert first["x-guest-new"] == "1"
        assert second["x-guest-new"] == account["x-guest-new"] == "0"
        assert first["x-guest-id"] == second["x-guest-id"] == account["x-guest-id"]


def test_a_twin_that_an_earlier_setting_left_costs_no_change(context: BrowserContext, tmp_path: Path) -> None:
    """Browsers send the host-only cookie first, and nobody renews it."""
    settings = {"GUEST_KEYS_DIR": str(tmp_path / "keys"), "GUEST_COOKIE_NAME": "guest"}
    with (
        guest_service(tmp_path, **settings) as service,
        staged("asgi", service, tmp_path, GUEST_COOKIE_NAME="guest") as stage,
        https_shop(context, stage, tmp_path) as shop,
    ):
        first = shop.guest()
        shop.post("/patch", {"cart": ["cup"]})
    domain = {"GUEST_COOKIE_NAME": "guest", "GUEST_COOKIE_DOMAIN": DOMAIN}
    with (
        guest_service(tmp_path, **settings, GUEST_COOKIE_DOMAIN=DOMAIN) as service,
        staged("asgi", service, tmp_path, **domain) as stage,
        https_shop(context, stage, tmp_path) as shop,
    ):
        assert shop.guest()["payload"] == {"cart": ["cup"]}
        for number, piece in enumerate(("tea", "vase"), start=3):
            shop.post("/apply", [{"op": "add", "path": "/cart/-", "value": piece}])
            assert len([each for each in context.cookies() if each["name"] == "guest"]) == 2
            guest = shop.guest()
            assert (guest["id"], guest["version"], guest["payload"]["cart"][-1]) == (first["id"], number, piece)
        login = shop.post("/login", {})

    assert login["session"]["cart"] == ["cup", "tea", "vase"]
    assert [each["version"] for each in login["guests"]] == [4]


def test_of_twins_the_newest_counts_behind_a_gateway(context: BrowserContext, tmp_path: Path) -> None:
    with https_gateway("nginx", tmp_path, GUEST_COOKIE_DOMAIN=DOMAIN) as gateway:
        old = gateway.service.issue()
        changed = gateway.service.post("/v1/refresh-payload", {"token": old["token"], "payload": {"cart": ["cup"]}})
        context.add_cookies(
            [
                {"name": "guest", "value": old["token"], "domain": HOST, "path": "/"},
                {"name": "guest", "value": changed.json()["token"], "domain": f".{DOMAIN}", "path": "/"},
            ]
        )
        # On a page the service would also renew the one that it knows as superseded.
        headers = echoed(context.new_page(), f"{gateway.url}/account")

    assert headers["cookie"].index(old["token"]) < headers["cookie"].index(changed.json()["token"])
    assert (headers["x-guest-id"], headers["x-guest-version"]) == (old["subject"], "2")


def test_behind_a_service_worker_a_visitor_gets_and_keeps_a_guest(context: BrowserContext, tmp_path: Path) -> None:
    """It passes navigations on, and makes `empty` of their destination."""
    with https_gateway("nginx", tmp_path, GUEST_JWKS_MAX_AGE="1") as gateway:
        page = context.new_page()
        page.goto(gateway.url)
        page.evaluate("navigator.serviceWorker.register('/worker.js').then(() => navigator.serviceWorker.ready)")
        context.clear_cookies()  # the worker was there before guests were

        first = echoed(page, gateway.url)
        second = echoed(page, gateway.url)
        gateway.service.rotate_now()
        [before] = [each["value"] for each in context.cookies() if each["name"] == COOKIE]
        third = echoed(page, gateway.url)
        [after] = [each["value"] for each in context.cookies() if each["name"] == COOKIE]

    assert {(each["sec-fetch-mode"], each["sec-fetch-dest"]) for each in (first, second, third)} == {
        ("navigate", "empty")
    }
    assert [each["x-guest-new"] for each in (first, second, third)] == ["1", "0", "0"]
    assert first["x-guest-id"] == second["x-guest-id"] == third["x-guest-id"]
    assert before != after


def framed(context: BrowserContext, top: str, url: str) -> None:
    """Opens a page of another site that shows the address in a frame, and closes it."""
    page = context.new_page()
    page.goto(top)
    page.evaluate(
        """url => new Promise(loaded => {
            const frame = document.createElement("iframe")
            frame.onload = () => loaded()
            frame.src = url
            document.body.append(frame)
        })""",
        url,
    )
    page.close()


def test_in_a_frame_of_another_site_a_guest_stays_where_cookies_are_partitioned(
    elsewhere: OtherSite, context: BrowserContext, tmp_path: Path
) -> None:
    settings = {"GUEST_COOKIE_PARTITIONED": "1", "GUEST_COOKIE_SAMESITE": "None"}
    with https_gateway("nginx", tmp_path, **settings) as gateway:
        for host in ("magazine.test", "magazine.test", "blog.test"):
            framed(context, elsewhere.url(host), gateway.url)
        first, second, of_another = (dict(request["headers"]) for request in gateway.app.seen)

    assert {each["sec-fetch-storage-access"] for each in (first, second, of_another)} == {"none"}
    assert [each["x-guest-new"] for each in (first, second, of_another)] == ["1", "0", "1"]
    assert first["x-guest-id"] == second["x-guest-id"] != of_another["x-guest-id"]


def test_in_a_frame_of_another_site_no_guest_stays_without_partitions(
    elsewhere: OtherSite, context: BrowserContext, tmp_path: Path
) -> None:
    """Chromium blocks third-party cookies in these contexts, as in its Incognito windows."""
    with https_gateway("nginx", tmp_path, GUEST_COOKIE_SAMESITE="None", GUEST_ENSURE_ON="any") as gateway:
        for _ in range(2):
            framed(context, elsewhere.url("magazine.test"), gateway.url)
        first, second = (dict(request["headers"]) for request in gateway.app.seen)

    assert first["x-guest-new"] == second["x-guest-new"] == "1"
    assert first["x-guest-id"] != second["x-guest-id"]
