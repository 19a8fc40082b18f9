"""The application in examples/middleware/express on the packed client; tests/clients tests the client itself."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.gateways import EXAMPLES
from tests.gateways.guest_service import ISSUER, guest_service
from tests.gateways.processes import Answer, running, send, wait_until
from tests.gateways.test_ensuring import NAVIGATION, guest_cookies, token_in
from tests.gateways.test_guarding import Headers, cookie
from tests.ports import free_port

EXPRESS = EXAMPLES / "middleware/express"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The example, listening on this port, with a service of its own."""
    node = shutil.which("node")
    if node is None or not (EXPRESS / "node_modules/guest-sessions").is_dir():
        pytest.skip("node, or what npm installs in examples/middleware/express, is not here")
    port = free_port()
    with guest_service(tmp_path) as service:
        environment = os.environ | {"GUEST_URL": f"http://{service.address}", "GUEST_ISSUER": ISSUER}
        command = [node, EXPRESS / "app.mjs", port]
        with running(command, port=port, log=tmp_path / "express.log", env=environment):
            # On a busy machine the first answer may take longer than the 3 s that a page waits for it.
            wait_until(lambda: guest_cookies(send(port, "/", headers=NAVIGATION)), what="newcomers get a guest")
            yield port


def post(port: int, path: str, body: Any, headers: Headers) -> Answer:
    lines = [*headers, ("Content-Type", "application/json")]
    return send(port, path, method="POST", headers=lines, body=json.dumps(body).encode())


def cookie_of(answer: Answer) -> Headers:
    [set_cookie] = guest_cookies(answer)
    return cookie(token_in(set_cookie))


def test_a_cart_goes_into_the_account_at_login(port: int) -> None:
    page = send(port, "/", headers=NAVIGATION)
    assert page.json()["guest"] | {"id": None} == {"id": None, "version": 1, "payload": {}, "isNew": True}
    saved = post(port, "/cart", ["cup"], cookie_of(page))
    assert saved.json()["guest"]["payload"] == {"cart": ["cup"]}
    login = post(port, "/login", {}, cookie_of(saved))
    assert login.json()["merged"] is True
    assert (login.json()["session"]["name"], login.json()["session"]["cart"]) == ("Ada", ["cup"])
    assert send(port, "/", headers=cookie_of(login)).json()["guest"]["payload"] == {}


def test_a_cart_that_is_too_large_is_refused_with_its_size(port: int) -> None:
    refused = post(port, "/cart", ["x" * 4000], [])
    assert refused.status == 422
    assert (refused.json()["code"], refused.json()["limit"]) == ("token_too_large", 3800)
    assert refused.json()["bytes"] > 4000
    assert guest_cookies(refused) == []


def test_a_log_out_deletes_the_guest_s_cookie(port: int) -> None:
    page = send(port, "/", headers=NAVIGATION)
    [deleted] = guest_cookies(post(port, "/logout", {}, cookie_of(page)))
    assert (token_in(deleted), "Max-Age=0" in deleted) == ("", True)
