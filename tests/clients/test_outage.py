"""The service fails, in all the ways of services and of what stands before them."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.clients.conftest import Stages
from tests.clients.stage import (
    FETCH,
    KEYS,
    NAVIGATION,
    Headers,
    Stage,
    application,
    cookie,
    guest_cookies,
    of_unknown_key,
    token_in,
)
from tests.gateways.processes import wait_until

FAILURES = ["bad gateway", '{"token": "x"}', "silent"]


@pytest.fixture(scope="class", params=FAILURES, ids=["bad gateway", "another answer", "silent"])
def down(request: pytest.FixtureRequest, shared_stage: Stage) -> Iterator[tuple[Stage, str]]:
    """The application and a guest's token, with the service known to be unavailable."""
    app = shared_stage
    token = app.new_guest({"cart": ["cup"]})
    app.front.state = request.param
    wait_until(lambda: app.get(NAVIGATION).json() == {"guest": None}, what="the outage was noticed")
    yield app, token
    app.reopen()


class TestWhileTheServiceIsUnavailable:
    def test_known_guests_stay_and_newcomers_get_their_page(self, down: tuple[Stage, str]) -> None:
        app, token = down
        assert app.guest([*NAVIGATION, *cookie(token)])["payload"] == {"cart": ["cup"]}
        newcomer = app.get(NAVIGATION)
        assert newcomer.json() == {"guest": None}
        assert guest_cookies(newcomer) == []

    def test_a_change_is_refused_as_unavailable(self, down: tuple[Stage, str]) -> None:
        app, token = down
        app.front.asked.clear()
        for headers in (cookie(token), FETCH):
            refused = app.try_to_post("/replace", {"cart": []}, headers)
            assert (refused.status, refused.json()["code"]) == (503, "unavailable")
            assert guest_cookies(refused) == []
        assert app.asked() == []  # nobody waits for a service that is known to be unavailable

    def test_a_login_goes_through_at_once_and_leaves_the_guest(self, down: tuple[Stage, str]) -> None:
        app, token = down
        app.front.asked.clear()
        login = app.post("/login", {}, cookie(token))
        assert app.asked() == []
        assert (login.json()["merged"], login.json()["session"]["name"]) == (False, "Ada")
        assert guest_cookies(login) == []


def test_an_application_that_starts_in_an_outage_replaces_no_cookie(stages: Stages) -> None:
    """It has no keys: what it cannot verify may well be good, and is not written over unread."""
    app = stages(state="bad gateway")
    guest = app.service.issue(payload={"cart": ["cup"]})
    page = app.get([*NAVIGATION, *cookie(guest["token"])])
    assert page.json() == {"guest": None}
    assert guest_cookies(page) == []
    refused = app.try_to_post("/replace", {"cart": ["bowl"]}, cookie(guest["token"]))
    assert (refused.status, refused.json()["code"]) == (503, "unreadable_guest")
    assert guest_cookies(refused) == []
    app.front.state = "open"
    wait_until(lambda: app.guest(cookie(guest["token"])), what="the guest is read again")
    [set_cookie] = guest_cookies(app.post("/patch", {"cart": ["cup", "bowl"]}, cookie(guest["token"])))
    assert app.guest(cookie(token_in(set_cookie)))["id"] == guest["subject"]


@pytest.mark.core
def test_one_failed_call_costs_the_next_visitor_little(app: Stage) -> None:
    """The service is looked at again at once, not when the keys are due, every 5 s."""
    token = app.new_guest()
    app.front.asked.clear()
    wait_until(lambda: KEYS in app.front.asked, what="the keys were fetched, and are not due for a while")
    begun = time.monotonic()
    app.front.state = "bad gateway"
    assert app.try_to_post("/replace", {"cart": []}, cookie(token)).status == 503
    app.front.state = "open"
    wait_until(lambda: guest_cookies(app.get(NAVIGATION)), what="newcomers get a guest again")
    assert time.monotonic() - begun < 4


def test_a_change_whose_answer_was_lost_is_not_repeated(app: Stage) -> None:
    token = app.new_guest()
    app.front.asked.clear()
    app.front.state = "losing"
    refused = app.try_to_post("/replace", {"cart": ["cup"]}, cookie(token))
    assert (refused.status, refused.json()["code"]) == (503, "unavailable")
    assert guest_cookies(refused) == []
    assert app.asked() == ["/v1/refresh-payload"]


def longest_wait_s(app: Stage, *visitors: Headers) -> float:
    """Of visitors who all come at once."""
    with ThreadPoolExecutor(len(visitors)) as pool:
        return max(pool.map(app.seconds_for, visitors))


def test_a_silent_service_holds_up_one_request_in_a_while_and_no_known_guest(app: Stage) -> None:
    strangers = [[*NAVIGATION, *cookie(of_unknown_key())]] * 12
    crowd = [*strangers, *[NAVIGATION] * 6, *[[*NAVIGATION, *cookie(app.new_guest())]] * 3]
    usual_s = longest_wait_s(app, *crowd)  # as fast as this machine is now
    app.front.state = "silent"
    assert app.seconds_for(NAVIGATION) < 10  # the first newcomer finds out, within 3 s
    assert longest_wait_s(app, *crowd) < usual_s + 2.5
    assert "imeout" in app.log


def test_a_service_that_answers_byte_by_byte_holds_nobody_up(app: Stage) -> None:
    app.front.state = "byte by byte"
    assert app.seconds_for(NAVIGATION) < 10


@pytest.mark.core
def test_a_service_that_answers_header_by_header_holds_nobody_up(app: Stage) -> None:
    app.front.state = "header by header"
    assert app.seconds_for(NAVIGATION) < 10


@pytest.mark.core
def test_an_endless_answer_does_not_fill_the_memory(app: Stage) -> None:
    """Clients take 4 MiB; the rest is on its way in the buffers of both sides."""
    app.front.state = "endless"
    app.get(NAVIGATION)
    wait_until(lambda: "unavailable" in app.log, what="the outage was noticed")
    assert 0 < app.front.longest_answer_bytes < 32 << 20


def test_strangers_at_a_silent_service_do_not_queue_up(stages: Stages) -> None:
    """Keys that nobody has, and none known yet: all wait together, not one after the other, for 36 s."""
    app = stages(state="silent")
    assert longest_wait_s(app, *[cookie(of_unknown_key())] * 12) < 15


@pytest.mark.core
def test_an_application_that_was_never_warm_lets_logins_through(app: Stage, name: str, tmp_path: Path) -> None:
    token = app.new_guest({"cart": ["cup"]})
    app.front.state = "silent"
    with application(name, app.service, app.front, tmp_path) as cold:
        login = cold.post("/login", {}, cookie(token))
        assert (login.json()["merged"], login.json()["session"]["name"]) == (False, "Ada")
        assert guest_cookies(login) == []
