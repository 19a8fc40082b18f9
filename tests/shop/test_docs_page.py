from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page

from tests.live import served

API_KEY = "an-api-key-for-this-test"


def authorize(page: Page) -> None:
    page.locator(".btn.authorize").first.click()
    page.get_by_label("auth-bearer-value").fill(API_KEY)
    page.get_by_label("Apply credentials").first.click()
    page.locator(".btn-done").first.click()


def try_out(page: Page, operation: str) -> tuple[str, str]:
    """Executes an operation with its example; the status and the body that the page then shows."""
    block = page.locator(f"#operations-guests-{operation}")
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table tbody")
    return answer.locator(".response-col_status").inner_text(), answer.locator(".microlight").first.inner_text()


def test_the_api_is_tried_out_in_the_browser_within_its_policy_and_on_its_host_alone(
    browser: Browser, tmp_path: Path
) -> None:
    complaints: list[str] = []
    asked: set[str] = set()
    with served(tmp_path, GUEST_API_KEYS=API_KEY) as address:
        page = browser.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
        page.goto(f"http://{address}/docs")
        authorize(page)
        status, body = try_out(page, "issue")
        page.close()

    assert status.split()[0] == "201"
    assert '"version": 1' in body
    assert complaints == []
    assert asked - {""} == {address}
