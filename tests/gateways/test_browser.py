"""A real browser behind the gateways that ensure a guest: one for each visitor, whatever a page loads."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.gateways.echo import echo
from tests.gateways.gateways import ASKING, Site
from tests.gateways.guest_service import COOKIE, guest_service
from tests.gateways.processes import HOST, wait_until

LOADED = {
    "/page",
    "/style.css",
    "/script.js",
    "/api/cart",
    "/1.png",
    "/2.png",
    "/3.png",
    "/4.png",
    "/frame",
    "/prefetched",
}


@pytest.mark.parametrize("name", ASKING)
def test_a_page_load_with_all_it_loads_gives_one_guest_that_stays(name: str, browser: Browser, tmp_path: Path) -> None:
    with (
        guest_service(tmp_path) as service,
        echo() as app,
        ASKING[name](Site(service, app.port, tmp_path)) as running,
        browser.new_context() as context,
    ):
        page = context.new_page()
        app.seen.clear()
        page.goto(f"http://{HOST}:{running.port}/page")
        wait_until(lambda: {request["path"] for request in app.seen} >= LOADED, what="the page has loaded all of it")
        page.goto(f"http://{HOST}:{running.port}/page/2")

        seen = [*app.seen]  # what the page prefetches may still come
        identities = [dict(request["headers"]) for request in seen]
        new = [
            request["path"]
            for request, identity in zip(seen, identities, strict=True)
            if identity.get("x-guest-new") == "1"
        ]
        assert new == ["/page"]
        assert len({identity["x-guest-id"] for identity in identities if identity.get("x-guest-id")}) == 1
        [cookie] = [each for each in context.cookies() if each["name"] == COOKIE]
        assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Lax")
        assert page.evaluate("document.cookie") == "theme=dark"
