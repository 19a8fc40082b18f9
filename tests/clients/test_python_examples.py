"""The Python client's README and the applications in examples/middleware/python, as a new user runs them."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.stage import NAVIGATION, Stage, cookie, guest_cookies, token_in
from tests.gateways.front import front
from tests.gateways.guest_service import guest_service
from tests.gateways.processes import running
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
README = (ROOT / "clients/python/README.md").read_text()
Start = Callable[[str], Stage]
URL = "http://127.0.0.1:8080"
SERVE_ASGI = "\nimport sys, uvicorn\nuvicorn.run(app, port=int(sys.argv[1]), log_level='warning')\n"
SERVE_AIOHTTP = "\nimport sys\nweb.run_app(app, host='127.0.0.1', port=int(sys.argv[1]), print=None)\n"


def program(section: str) -> str:
    """The first program of a section of the README."""
    [text] = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    code: str = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0]
    return code


@contextlib.contextmanager
def started(script: Path, folder: Path, **environment: str) -> Iterator[Stage]:
    """The script beside a service with an http issuer and no API key, as `guest-sessions serve` starts it."""
    port, log = free_port(), folder / "app.log"
    with guest_service(folder, GUEST_ISSUER=URL) as service, front(service) as before:
        script.write_text(script.read_text().replace(f'GuestSessions("{URL}"', f'GuestSessions("{before.url}"'))
        settings = os.environ | {"GUEST_URL": before.url, "GUEST_ISSUER": URL} | environment
        with running([sys.executable, script, port], port=port, log=log, env=settings):
            yield Stage(port, service, before, log)


@pytest.fixture
def readme(tmp_path: Path) -> Iterator[Start]:
    with contextlib.ExitStack() as life:

        def start(code: str) -> Stage:
            script = tmp_path / "main.py"
            script.write_text(code)
            return life.enter_context(started(script, tmp_path))

        yield start


def first_cookie(app: Stage) -> str:
    [set_cookie] = guest_cookies(app.get(NAVIGATION), "guest")
    return token_in(set_cookie)


def test_the_readme_s_fastapi_has_a_cart_that_survives_login(readme: Start) -> None:
    app = readme(program("FastAPI and Starlette") + SERVE_ASGI)
    tokens = []
    for pieces in (["cup", "tea"], ["tea"]):
        token = first_cookie(app)
        for piece in pieces:
            [set_cookie] = guest_cookies(app.post(f"/cart/{piece}", {}, cookie(token, "guest")), "guest")
            token = token_in(set_cookie)
        tokens.append(token)
    for token in (*tokens, tokens[0]):
        cart = app.post("/login", {}, cookie(token, "guest")).json()["cart"]
    assert sorted((line["sku"], line["quantity"]) for line in cart) == [("cup", 1), ("tea", 2)]


def test_the_readme_s_aiohttp_keeps_a_cart(readme: Start) -> None:
    app = readme(program("aiohttp") + SERVE_AIOHTTP)
    changed = app.post("/cart/cup", {}, cookie(first_cookie(app), "guest"))
    [set_cookie] = guest_cookies(changed, "guest")
    assert app.get(cookie(token_in(set_cookie), "guest")).json() == {"cart": [{"sku": "cup", "quantity": 1}]}


def test_the_readme_s_litestar_has_guests(readme: Start) -> None:
    app = readme(program("Litestar") + SERVE_ASGI)
    assert app.get(cookie(first_cookie(app), "guest")).json() == {}


def test_every_program_of_the_readme_compiles() -> None:
    programs = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert len(programs) == 6
    for code in programs:
        compile(code, "README.md", "exec")


@pytest.mark.parametrize("script", ["app_fastapi.py", "app_aiohttp.py", "app_django.py"])
def test_an_example_keeps_a_cart_through_login_and_forgets_at_logout(script: str, tmp_path: Path) -> None:
    copy = tmp_path / script
    copy.write_text((ROOT / "examples/middleware/python" / script).read_text())
    with started(copy, tmp_path) as app:
        token = first_cookie(app)
        for piece in ("cup", "tea"):
            changed = app.post("/cart", {"sku": piece, "quantity": 1}, cookie(token, "guest"))
            [set_cookie] = guest_cookies(changed, "guest")
            token = token_in(set_cookie)
        assert [line["sku"] for line in app.get(cookie(token, "guest")).json()["cart"]] == ["cup", "tea"]
        login = app.post("/login", {}, cookie(token, "guest")).json()
        assert (login["merged"], login["session"]["name"]) == (True, "Ada")
        assert [line["sku"] for line in login["session"]["cart"]] == ["cup", "tea"]
        [deleted] = guest_cookies(app.post("/logout", {}, cookie(token, "guest")), "guest")
        assert token_in(deleted) == ""
        refused = app.try_to_post("/cart", {"sku": "x" * 4000, "quantity": 1}, cookie(token, "guest"))
        assert (refused.status, refused.json()["code"]) == (422, "token_too_large")
