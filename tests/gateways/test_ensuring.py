"""What the gateways that ask /v1/auth do for a visitor outside /account."""

import re
import threading

import pytest

from tests.gateways.conftest import Gateway
from tests.gateways.guest_service import COOKIE, forgeries
from tests.gateways.processes import Answer, send
from tests.gateways.test_guarding import cookie, identity, named

NAVIGATION = [("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document"), ("Sec-Fetch-Site", "none")]


def guest_cookies(answer: Answer) -> list[str]:
    return [value for value in answer.all("Set-Cookie") if value.startswith(f"{COOKIE}=")]


def token_in(set_cookie: str) -> str:
    return set_cookie.partition("=")[2].partition(";")[0]


def test_a_first_page_gets_a_guest_that_stays(asking_gateway: Gateway) -> None:
    first = send(asking_gateway.port, "/", headers=NAVIGATION)
    assert first.status == 200
    [set_cookie] = guest_cookies(first)
    [guest_id] = named("x-guest-id", identity(first))
    assert re.fullmatch(r"G-[0-9a-f-]{36}", guest_id)
    assert named("x-guest-new", identity(first)) == ["1"]
    again = send(asking_gateway.port, "/cart?x=1&y=%20", headers=[*NAVIGATION, *cookie(token_in(set_cookie))])
    assert guest_cookies(again) == []
    assert named("x-guest-id", identity(again)) == [guest_id]
    assert named("x-guest-new", identity(again)) == ["0"]
    assert again.json()["path"] == "/cart?x=1&y=%20"


def test_the_cookie_reaches_the_browser_beside_the_applications_own(asking_gateway: Gateway) -> None:
    answer = send(asking_gateway.port, "/", headers=NAVIGATION)
    [set_cookie] = guest_cookies(answer)
    _, *attributes = set_cookie.split("; ")
    assert sorted(attributes) == ["HttpOnly", "Max-Age=34560000", "Path=/", "SameSite=Lax", "Secure"]
    assert "theme=dark; Path=/" in answer.all("Set-Cookie")
    assert len(answer.all("Set-Cookie")) == 2


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="a bot"),
        pytest.param([("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Dest", "empty")], id="fetch"),
        pytest.param([("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "image")], id="an image"),
        pytest.param([("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "iframe")], id="a frame"),
        pytest.param([*NAVIGATION, ("Sec-Purpose", "prefetch;prerender")], id="a prerender"),
        pytest.param([*NAVIGATION, ("Purpose", "prefetch")], id="an older prefetch"),
    ],
)
def test_what_is_no_page_navigation_gets_no_guest(asking_gateway: Gateway, headers: list[tuple[str, str]]) -> None:
    answer = send(asking_gateway.port, "/", headers=headers)
    assert answer.status == 200
    assert guest_cookies(answer) == []
    assert identity(answer) == []


def test_a_post_navigation_gets_no_guest_even_when_it_claims_to_be_a_get(asking_gateway: Gateway) -> None:
    claims = [("X-Forwarded-Method", "GET"), ("X-Original-Method", "GET"), ("X-HTTP-Method-Override", "GET")]
    answer = send(asking_gateway.port, "/return", method="POST", headers=[*NAVIGATION, *claims], body=b"paid=1")
    assert answer.status == 200
    assert guest_cookies(answer) == []
    assert answer.json()["body"] == "paid=1"


def test_a_forged_cookie_is_replaced_on_a_page(asking_gateway: Gateway) -> None:
    for name, token in forgeries(asking_gateway.service.issue()["token"]).items():
        answer = send(asking_gateway.port, "/", headers=[*NAVIGATION, *cookie(token)])
        assert answer.status == 200
        assert len(guest_cookies(answer)) == 1, name
        assert named("x-guest-new", identity(answer)) == ["1"]


def test_parallel_first_requests_of_one_page_load_give_one_guest(asking_gateway: Gateway) -> None:
    """A page, and what it loads before its cookie is there."""
    kinds = ["script", "style", "image", "font", "empty"]
    loads = [[("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", kind)] for kind in kinds]
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda headers=headers: answers.append(send(asking_gateway.port, "/", headers=headers)))
        for headers in [NAVIGATION, *loads]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [200] * 6
    assert sum(len(guest_cookies(answer)) for answer in answers) == 1


def test_a_cookie_header_in_several_lines_is_read_to_its_end(asking_gateway: Gateway) -> None:
    guest = asking_gateway.service.issue()
    answer = send(asking_gateway.port, "/", headers=[*NAVIGATION, ("Cookie", "theme=dark"), *cookie(guest["token"])])
    assert named("x-guest-id", identity(answer)) == [guest["subject"]]
    assert guest_cookies(answer) == []


def test_the_paths_of_visitors_do_not_choose_the_mode(asking_gateway: Gateway) -> None:
    for path in ("/?mode=verify", "/&mode=verify", "/a?b=1&mode=verify"):
        answer = send(asking_gateway.port, path, headers=NAVIGATION)
        assert answer.status == 200, path
        assert len(guest_cookies(answer)) == 1, path
        assert answer.json()["path"] == path


def test_a_guest_of_a_retired_key_is_renewed(asking_gateway: Gateway) -> None:
    guest = asking_gateway.service.issue(payload={"cart": ["cup"]})
    asking_gateway.service.rotate_now()
    answer = send(asking_gateway.port, "/", headers=[*NAVIGATION, *cookie(guest["token"])])
    [set_cookie] = guest_cookies(answer)
    assert named("x-guest-id", identity(answer)) == [guest["subject"]]
    renewed = asking_gateway.service.post("/v1/verify", {"token": token_in(set_cookie)}).json()
    assert renewed["subject"] == guest["subject"]
    assert renewed["payload"] == {"cart": ["cup"]}
    assert renewed["key_id"] != guest["key_id"]
