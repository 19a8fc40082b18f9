import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Response

from tests.gateways.chromium import chromium
from tests.gateways.processes import HOST, running, send, wait_until
from tests.ports import free_port

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[str]:
    """The address of a freshly opened shop."""
    port = free_port()
    environment = os.environ | {"DEMO_SHOP_PORT": str(port), "DEMO_SERVICE_PORT": str(free_port())}
    command = [sys.executable, ROOT / "examples/shop/demo.py"]
    with running(command, port=port, log=tmp_path / "demo.log", env=environment):
        yield f"http://{HOST}:{port}"


class Visitor:
    """One browser with cookies of its own, in the shop."""

    def __init__(self, page: Page, shop: str) -> None:
        self.page, self.shop = page, shop

    def opens(self, path: str = "/") -> Response | None:
        return self.page.goto(self.shop + path)

    def adds(self, name: str, times: int = 1) -> None:
        self.opens()
        for _ in range(times):
            self.page.locator(".card", has_text=name).get_by_role("button", name="Add to cart").click()

    def remembers(self, name: str) -> None:
        self.opens()
        self.page.get_by_role("button", name=f"Remember {name}").click()

    def logs_in(self, name: str, password: str = "clay") -> None:
        self.opens("/login")
        self.page.get_by_label("Who").select_option(name)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Log in").click()

    def logs_out(self) -> None:
        self.page.get_by_role("button", name="Log out").click()

    @property
    def story(self) -> str:
        return str(self.page.locator("#story").inner_text())

    @property
    def notice(self) -> str:
        """The line about what the last form did."""
        return " ".join(self.page.locator(".said").inner_text().split())

    @property
    def cart(self) -> dict[str, int]:
        """Quantities by sku, as the cart page shows them."""
        self.opens("/cart")
        rows = self.page.locator("tr[data-sku]")
        return {str(row.get_attribute("data-sku")): int(row.locator(".quantity").inner_text()) for row in rows.all()}

    @property
    def guest_token(self) -> str:
        tokens = [each["value"] for each in self.page.context.cookies() if each["name"] == "guest"]
        assert len(tokens) == 1
        return str(tokens[0])

    def shoots(self, name: str) -> None:
        """A screenshot for the README, taken where SHOP_SCREENSHOTS names a folder."""
        if folder := os.environ.get("SHOP_SCREENSHOTS"):
            assert re.fullmatch(r"[a-z-]+", name)
            self.page.bring_to_front()
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=False)


@pytest.fixture
def visitors(browser: Browser, shop: str) -> Iterator[tuple[Visitor, Visitor]]:
    """Two browsers in the same shop."""
    contexts = [browser.new_context(viewport={"width": 1120, "height": 860}) for _ in range(2)]
    yield (Visitor(contexts[0].new_page(), shop), Visitor(contexts[1].new_page(), shop))
    for context in contexts:
        context.close()


class Stand:
    """The shop and its service, which a test closes and opens again, each by itself; ports and keys stay the same."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {"service": free_port(), "shop": free_port()}
        self._open = {"service": contextlib.ExitStack(), "shop": contextlib.ExitStack()}

    def address(self, who: str) -> str:
        return f"http://{HOST}:{self._ports[who]}"

    def opens(self, who: str) -> None:
        commands: dict[str, list[object]] = {
            "service": ["-m", "service", "serve"],
            "shop": [ROOT / "examples/shop/app.py", self._ports["shop"]],
        }
        process = running(
            [sys.executable, *commands[who]],
            port=self._ports[who],
            log=self._folder / f"{who}.log",
            env=os.environ | self._settings(who),
        )
        self._open[who].enter_context(process)
        if who == "service":
            wait_until(lambda: send(self._ports[who], "/readyz").status == 200, what="the service is ready")

    def closes(self, who: str) -> None:
        self._open[who].close()

    def _settings(self, who: str) -> dict[str, str]:
        issuer, api_key = self.address("service"), "an-api-key-for-this-test"
        if who == "shop":
            return {"GUEST_URL": issuer, "GUEST_ISSUER": issuer, "GUEST_API_KEY": api_key}
        return {
            "GUEST_PORT": str(self._ports[who]),
            "GUEST_ISSUER": issuer,
            "GUEST_API_KEYS": api_key,
            "GUEST_KEYS_DIR": str(self._folder / "keys"),
            "GUEST_MERGE_POLICIES": str(ROOT / "examples/shop/policies.toml"),
        }


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    """Both opened."""
    stand = Stand(tmp_path)
    try:
        stand.opens("service")
        stand.opens("shop")
        yield stand
    finally:
        stand.closes("shop")
        stand.closes("service")


@pytest.fixture
def customer_of_the_stand(browser: Browser, stand: Stand) -> Iterator[Visitor]:
    """One browser in the shop that a test can close."""
    context = browser.new_context(viewport={"width": 1120, "height": 860})
    yield Visitor(context.new_page(), stand.address("shop"))
    context.close()
