"""A login: what is handed over, and that nothing stops it."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.clients.conftest import Stages
from tests.clients.stage import CROSS_SITE, FETCH, Headers, Stage, cookie, cookies, guest_cookies, token_in
from tests.clients.test_guests import revoked_guest


def test_a_login_hands_over_once_and_begins_a_clean_guest(app: Stage) -> None:
    token = app.new_guest({"cart": ["vase"]})
    first = app.post("/login", {}, cookie(token))
    report = first.json()
    assert (report["merged"], report["unexpected"], report["skipped"]) == (True, False, [])
    assert report["session"]["name"] == "Ada"
    assert report["session"]["cart"][-1] == "vase"
    assert [guest["subject"] for guest in report["guests"]] == [app.guest(cookie(token))["id"]]
    [next_cookie] = guest_cookies(first)
    assert app.guest(cookie(token_in(next_cookie)))["payload"] == {}
    again = app.post("/login", {}, cookie(token)).json()
    assert (again["merged"], again["session"]) == (False, report["session"])
    assert [skipped["reason"] for skipped in again["skipped"]] == ["already_merged"]


@pytest.mark.parametrize("headers", [[], cookie("not-a-token")], ids=["none", "no token"])
def test_a_login_without_a_guest_goes_through(app: Stage, headers: Headers) -> None:
    login = app.post("/login", {}, headers)
    assert (login.json()["merged"], login.json()["session"]["name"]) == (False, "Ada")
    assert guest_cookies(login) == []


def test_a_login_from_another_site_leaves_the_guest_alone(app: Stage) -> None:
    """The browser holds a Lax cookie back on such a POST: a new guest's would replace it, and its cart."""
    login = app.post("/login", {}, CROSS_SITE)
    assert login.json()["merged"] is False
    assert guest_cookies(login) == []


def test_a_login_that_fails_after_the_hand_over_leaves_the_guest(app: Stage) -> None:
    """The merge is in no session: with the next guest's cookie the cart would be nowhere."""
    login = app.try_to_post("/fail-login", {}, cookie(app.new_guest({"cart": ["cup"]})))
    assert login.status == 500
    assert guest_cookies(login) == []


def test_a_hand_over_without_a_next_guest_deletes_the_cookie(app: Stage) -> None:
    login = app.post("/login", {"renew": False}, cookie(app.new_guest({"cart": ["plate"]})))
    assert login.json()["session"]["cart"][-1] == "plate"
    [set_cookie] = guest_cookies(login)
    assert token_in(set_cookie) == ""
    assert "max-age=0" in set_cookie.lower()


@pytest.mark.core
def test_a_revoked_guest_lets_the_login_go_on(stages: Stages) -> None:
    app = stages()
    login = app.post("/login", {"strict": True}, cookie(revoked_guest(app)))
    assert (login.json()["merged"], login.json()["session"]["name"]) == (False, "Ada")


def test_a_wrong_policy_lets_the_login_go_on(app: Stage) -> None:
    token = app.new_guest({"cart": ["cup"]})
    login = app.post("/login", {"policy": "no-such-policy"}, cookie(token))
    assert (login.json()["merged"], login.json()["session"]["name"]) == (False, "Ada")
    assert guest_cookies(login) == []
    assert "no-such-policy" in app.log or "invalid_policy" in app.log


def test_a_policy_is_used(app: Stage) -> None:
    login = app.post("/login", {"policy": {"default": "drop"}}, cookie(app.new_guest({"dropped": 1})))
    assert "dropped" not in login.json()["session"]


def test_all_good_tokens_of_a_request_are_handed_over(app: Stage) -> None:
    """Else a planted guest before it would cost the visitor the own one's cart."""
    first, second = app.new_guest({"cart": ["first"]}), app.new_guest({"cart": ["second"]})
    login = app.post("/login", {}, cookies(first, second))
    assert {"first", "second"} <= set(login.json()["session"]["cart"])
    assert len(login.json()["guests"]) == 2


def test_more_tokens_than_a_merge_takes_stop_no_login(app: Stage) -> None:
    crowd = [app.new_guest({"cart": [f"crowd-{number}"]}) for number in range(33)]
    login = app.post("/login", {"tokens": crowd}, cookie(app.new_guest({"cart": ["own"]}))).json()
    assert {"own", "crowd-0", "crowd-30"} <= set(login["session"]["cart"])
    assert len(login["guests"]) == 32


def test_the_expected_guest_is_handed_over(app: Stage) -> None:
    guest = app.service.issue(payload={"cart": ["expected"]})
    login = app.post("/login", {"expect": guest["subject"]}, cookie(guest["token"])).json()
    assert (login["merged"], login["unexpected"]) == (True, False)


def test_a_guest_that_was_swapped_during_the_login_is_not_handed_over(app: Stage) -> None:
    noted, planted = app.service.issue(), app.new_guest({"cart": ["swapped"]})
    for tokens in ((planted,), (planted, noted["token"])):
        login = app.post("/login", {"expect": noted["subject"]}, cookies(*tokens))
        assert (login.json()["merged"], login.json()["unexpected"]) == (False, True)
        assert "swapped" not in login.json()["session"]["cart"]
        assert login.json()["session"]["name"] == "Ada"
        assert guest_cookies(login) == []


def test_with_the_expected_guest_no_other_one_comes_along(app: Stage) -> None:
    noted, planted = app.service.issue(payload={"cart": ["mine"]}), app.new_guest({"cart": ["not mine"]})
    login = app.post("/login", {"expect": noted["subject"]}, cookies(noted["token"], planted)).json()
    assert (login["merged"], login["unexpected"]) == (True, False)
    assert "not mine" not in login["session"]["cart"]


def test_further_tokens_are_handed_over_beside_the_guest_s_own(app: Stage) -> None:
    """A login that ends on another device, or in a link of a mail."""
    began, ends = app.new_guest({"cart": ["laptop"]}), app.new_guest({"cart": ["phone"]})
    login = app.post("/login", {"tokens": [began]}, cookie(ends))
    assert {"laptop", "phone"} <= set(login.json()["session"]["cart"])
    assert len(guest_cookies(login)) == 1


def test_further_tokens_alone_set_no_cookie(app: Stage) -> None:
    """The browser may hold a guest that this request does not show."""
    login = app.post("/login", {"tokens": [app.new_guest({"cart": ["mail"]})]}, CROSS_SITE)
    assert "mail" in login.json()["session"]["cart"]
    assert guest_cookies(login) == []


def test_three_devices_that_log_in_at_once_lose_nothing(app: Stage) -> None:
    devices = [app.new_guest({"cart": [f"device-{number}"]}) for number in range(3)]
    with ThreadPoolExecutor(3) as pool:
        logins = [pool.submit(app.post, "/login", {}, cookie(token)) for token in devices]
        assert [login.result().json()["merged"] for login in logins] == [True] * 3
    cart = app.post("/login", {}, FETCH).json()["session"]["cart"]
    assert sorted(each for each in cart if each.startswith("device-")) == ["device-0", "device-1", "device-2"]
