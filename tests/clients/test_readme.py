"""The programs of the project's README, as a newcomer runs them: something into the cart, and the cart again."""

import re
import sys
from pathlib import Path

import pytest

from tests.clients.applications import APPLICATIONS, APPS
from tests.clients.stage import NAVIGATION
from tests.gateways.guest_service import guest_service
from tests.gateways.processes import Answer, running, send
from tests.ports import free_port

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
URL = "http://127.0.0.1:8080"


def kept(answer: Answer) -> list[tuple[str, str]]:
    """The Cookie header of a visitor who got this answer."""
    [set_cookie] = answer.all("Set-Cookie")
    return [("Cookie", set_cookie.partition(";")[0])]


@pytest.mark.parametrize("script", ["app.py", "app.mjs"])
def test_a_visitor_comes_back_to_the_cart(script: str, tmp_path: Path) -> None:
    port = free_port()
    if script == "app.py":
        fence, command = "py", [sys.executable, "-m", "uvicorn", "--app-dir", tmp_path, "--port", port, "app:app"]
    else:
        fence, command = "js", ["node", tmp_path / script]
        if reason := APPLICATIONS["express"].missing():
            pytest.skip(reason)
        (tmp_path / "node_modules").symlink_to(APPS / "javascript/node_modules")
    [program] = [
        code for code in re.findall(rf"^```{fence}\n(.*?)^```", README, re.MULTILINE | re.DOTALL) if "/cart/" in code
    ]
    with guest_service(tmp_path, GUEST_ISSUER=URL) as service:
        # Where the service really listens; the issuer stays.
        here = re.sub(rf'(\(|url: )"{URL}"', rf'\1"http://{service.address}"', program)
        (tmp_path / script).write_text(here.replace("listen(3000)", f"listen({port})"), "utf-8")
        with running(command, port=port, log=tmp_path / "app.log"):
            newcomer = send(port, "/cart", headers=NAVIGATION)
            visitor = newcomer
            for sku in ("tea", "mug", "tea"):
                visitor = send(port, f"/cart/{sku}", method="POST", body=b"", headers=kept(visitor))
            again = send(port, "/cart", headers=kept(visitor))

    assert newcomer.json() == []
    assert again.json() == [{"sku": "tea", "quantity": 2}, {"sku": "mug", "quantity": 1}]
