import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.gateways.chromium import chromium
from tests.gateways.processes import HOST, free_port, running

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

    def opens(self, path: str = "/") -> None:
        self.page.goto(self.shop + path)

    def adds(self, name: str, times: int = 1) -> None:
        self.opens()
        for _ in range(times):
            self.page.locator(".card", has_text=name).get_by_role("button", name="Add to cart").click()

    def remembers(self, name: str) -> None:
        self.opens()
        self.page.get_by_role("button", name=f"Remember {name}").click()

    def logs_in(self, name: str) -> None:
        self.opens("/login")
        self.page.get_by_label("Who").select_option(name)
        self.page.get_by_role("button", name="Log in").click()

    def logs_out(self) -> None:
        self.page.get_by_role("button", name="Log out").click()

    @property
    def story(self) -> str:
        return str(self.page.locator("#story").inner_text())

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
