import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.live import served

API_KEY = "an-api-key-for-this-test"
PREFIX = "/guests"


def authorize(page: Page) -> None:
    page.locator(".btn.authorize").first.click()
    page.get_by_label("auth-bearer-value").fill(API_KEY)
    page.get_by_label("Apply credentials").first.click()
    page.locator(".btn-done").first.click()


def try_out(page: Page, operation: str) -> tuple[str, str]:
    """Executes an operation with its example; the status and the body that the page then shows."""
    block = page.locator(f"#operations-guests-{operation}")
    if not block.locator(".execute").count():
        block.locator(".opblock-summary-control").click()
    if (clear := block.get_by_role("button", name="Clear")).count():
        clear.click()  # else the answer of the last time stands there until the new one comes
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table tbody")
    return answer.locator(".response-col_status").inner_text(), answer.locator(".microlight").first.inner_text()


@contextmanager
def below_a_prefix(address: str) -> Iterator[str]:
    """A reverse proxy in front of the service, which takes the prefix off."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            path = self.path.removeprefix(PREFIX) if self.path.startswith(f"{PREFIX}/") else "/nothing"
            names = ("Authorization", "Content-Type")
            headers = {name: self.headers[name] for name in names if name in self.headers}
            body = self.rfile.read(length) if length else None
            asked = urllib.request.Request(f"http://{address}{path}", body, headers, method=self.command)
            try:
                response = urllib.request.urlopen(asked)  # noqa: S310 - ours
            except HTTPError as error:
                response = error
            with response:
                content = response.read()
                self.send_response(response.status)
                for name, value in response.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

        do_POST = do_GET  # noqa: N815 - the library's name

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("slash", ["", "/"], ids=["/docs", "/docs/"])
def test_the_api_is_tried_out_in_the_browser_within_its_policy_and_on_its_host_alone(
    browser: Browser, tmp_path: Path, slash: str
) -> None:
    complaints: list[str] = []
    asked: set[str] = set()
    with served(tmp_path, GUEST_API_KEYS=API_KEY) as address:
        page = browser.new_page()
        # Not Chromium's verbose hints on Swagger UI's own forms: what its policy refuses is an error.
        page.on("console", lambda message: complaints.extend([message.text] * (message.type != "verbose")))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
        page.goto(f"http://{address}/docs{slash}")
        authorize(page)
        status, body = try_out(page, "issue")
        page.close()

    assert status.split()[0] == "201"
    assert '"version": 1' in body
    assert '"cart"' in body
    assert complaints == []
    assert asked - {""} == {address}


def test_the_token_issued_last_is_in_every_example(browser: Browser, tmp_path: Path) -> None:
    with served(tmp_path) as address:
        page = browser.new_page()
        page.goto(f"http://{address}/docs")
        before = [try_out(page, operation)[1] for operation in ("verify", "introspect")]
        _, issued = try_out(page, "issue")
        token = issued.split('"token": "')[1].split('"')[0]
        expect(page.locator("#operations-guests-verify textarea")).to_have_value(f'{{\n  "token": "{token}"\n}}')
        after = [try_out(page, operation)[1] for operation in ("verify", "introspect")]
        refreshed = try_out(page, "refreshPayload")
        page.close()

    assert all('"active": false' in body for body in before)
    assert all('"active": true' in body for body in after)
    assert refreshed[0].split()[0] == "200"


def test_it_works_below_a_path_prefix(browser: Browser, tmp_path: Path) -> None:
    with served(tmp_path) as address, below_a_prefix(address) as proxy:
        page = browser.new_page()
        page.goto(f"http://{proxy}{PREFIX}/docs")
        status, _ = try_out(page, "issue")
        url = page.locator("#operations-guests-issue .request-url").inner_text().split()[-1]
        page.close()

    assert (status.split()[0], url) == ("201", f"http://{proxy}{PREFIX}/v1/issue")


def test_nothing_is_wider_than_a_phone(browser: Browser, tmp_path: Path) -> None:
    with served(tmp_path) as address:
        page = browser.new_page(viewport={"width": 375, "height": 800})
        page.goto(f"http://{address}/docs")
        for operation in ("issue", "verify", "introspect", "merge"):
            try_out(page, operation)
        width_px = page.evaluate("document.documentElement.scrollWidth")
        page.close()

    assert width_px == 375
