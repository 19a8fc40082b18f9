"""Who gets a guest, how it changes, and how it is renewed."""

import re
import time
from pathlib import Path

import pytest

from tests.clients.conftest import Stages
from tests.clients.stage import (
    FETCH,
    NAVIGATION,
    Headers,
    Stage,
    attributes,
    bearer,
    cookie,
    guest_cookies,
    token_in,
)
from tests.gateways.guest_service import COOKIE
from tests.gateways.processes import send, wait_until

OPENAPI = (Path(__file__).parents[2] / "openapi.yaml").read_text()


def test_a_first_page_gets_a_guest_that_stays(app: Stage) -> None:
    first = app.get(NAVIGATION)
    [set_cookie] = guest_cookies(first)
    found = attributes(set_cookie)
    assert {"httponly", "secure"} <= found.keys()
    assert (found["path"], found["samesite"], found["max-age"]) == ("/", "Lax", "34560000")
    guest = first.json()["guest"]
    assert guest["id"].startswith("G-")
    assert {**guest, "id": ""} == {"id": "", "version": 1, "payload": {}, "is_new": True}
    again = app.get([*NAVIGATION, *cookie(token_in(set_cookie))])
    assert again.json()["guest"] == {**guest, "is_new": False}
    assert guest_cookies(again) == []


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="a bot"),
        pytest.param(FETCH, id="fetch"),
        pytest.param([("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "image")], id="an image"),
        pytest.param([("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "iframe")], id="a frame"),
        pytest.param([("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Dest", "document")], id="a fetched document"),
        pytest.param([*NAVIGATION, ("Sec-Purpose", "prefetch;prerender")], id="a prerender"),
        pytest.param([*NAVIGATION, ("Purpose", "prefetch")], id="an older prefetch"),
    ],
)
def test_no_page_no_guest(app: Stage, headers: Headers) -> None:
    answer = app.get(headers)
    assert answer.json() == {"guest": None}
    assert guest_cookies(answer) == []


def test_a_posted_page_gets_no_guest(app: Stage) -> None:
    answer = app.post("/logout", {}, NAVIGATION)
    assert [token_in(line) for line in guest_cookies(answer)] == [""]


def test_a_service_worker_that_passes_a_page_on_gets_a_guest(app: Stage) -> None:
    """It makes `empty` of the destination."""
    headers = [("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "empty"), ("Sec-Fetch-Site", "same-origin")]
    assert len(guest_cookies(app.get(headers))) == 1


CHANGES = [
    pytest.param("/replace", {"cart": ["cup"]}, {"cart": ["cup"]}, id="replace"),
    pytest.param("/patch", {"cart": ["cup"], "seen": None}, {"name": "x", "cart": ["cup"]}, id="patch"),
    pytest.param(
        "/apply",
        [{"op": "add", "path": "/cart", "value": ["cup"]}, {"op": "remove", "path": "/seen"}],
        {"name": "x", "cart": ["cup"]},
        id="apply",
    ),
]


@pytest.mark.parametrize(("path", "change", "expected"), CHANGES)
def test_a_change_travels_in_the_cookie(app: Stage, path: str, change: object, expected: object) -> None:
    token = app.new_guest({"name": "x", "seen": 1})
    answer = app.post(path, change, cookie(token))
    [set_cookie] = guest_cookies(answer)
    assert (answer.json()["guest"]["version"], answer.json()["guest"]["payload"]) == (2, expected)
    assert app.guest(cookie(token_in(set_cookie))) == answer.json()["guest"]


def test_a_second_change_builds_on_the_first(app: Stage) -> None:
    answer = app.post("/twice", [{"cart": ["cup"]}, {"name": "x"}], cookie(app.new_guest()))
    assert (answer.json()["guest"]["version"], answer.json()["guest"]["payload"]) == (
        3,
        {"cart": ["cup"], "name": "x"},
    )
    [set_cookie] = guest_cookies(answer)
    assert app.guest(cookie(token_in(set_cookie))) == answer.json()["guest"]


@pytest.mark.skipif("rebased_onto" not in OPENAPI, reason="the service does not merge changes that race yet")
def test_changes_of_two_tabs_are_both_kept(app: Stage) -> None:
    token = app.new_guest()
    app.post("/patch", {"cart": ["cup"]}, cookie(token))
    second = app.post("/patch", {"seen": ["bowl"]}, cookie(token))
    assert second.json()["guest"]["payload"] == {"cart": ["cup"], "seen": ["bowl"]}
    assert second.json()["guest"]["version"] == 3
    [set_cookie] = guest_cookies(second)
    assert app.guest(cookie(token_in(set_cookie)))["payload"] == {"cart": ["cup"], "seen": ["bowl"]}


TWO = [
    pytest.param("replace", {"pieces": 2}, id="replace"),
    pytest.param("patch", {"pieces": 2}, id="patch"),
    pytest.param("apply", [{"op": "replace", "path": "/pieces", "value": 2}], id="apply"),
]


@pytest.mark.parametrize(("method", "change"), TWO)
def test_changes_of_two_tabs_come_together_by_the_policy(app: Stage, method: str, change: object) -> None:
    token = app.new_guest({"pieces": 1})
    body = {"method": method, "change": change, "options": {"policy": {"rules": {"/pieces": "sum"}}}}
    answers = [app.post("/change", body, cookie(token)).json() for _ in range(2)]
    assert [each["guest"]["payload"] for each in answers] == [{"pieces": 2}, {"pieces": 3}]


@pytest.mark.parametrize(("method", "change"), TWO)
def test_a_change_of_the_current_state_alone_is_refused_after_another(app: Stage, method: str, change: object) -> None:
    token = app.new_guest({"pieces": 1})
    body = {"method": method, "change": change, "options": {"if_current": True, "policy": {}}}
    app.front.requests.clear()
    assert app.post("/change", body, cookie(token)).json()["guest"]["version"] == 2
    refused = app.try_to_post("/change", body, cookie(token))
    assert (refused.status, refused.json()["code"]) == (409, "stale_token")
    assert refused.json()["facts"]["version"] == 2
    assert guest_cookies(refused) == []
    asked = [each.json() for each in app.front.requests if each.path == "/v1/refresh-payload"]
    assert [each["policy"] for each in asked] == [{}, {}]  # the service's own default, whatever its settings say


@pytest.mark.parametrize(
    ("path", "change"),
    [
        pytest.param("/replace", {"cart": ["cup"]}, id="replace"),
        pytest.param("/patch", {"cart": ["cup"]}, id="patch"),
        pytest.param("/apply", [{"op": "add", "path": "/cart", "value": ["cup"]}], id="apply"),
    ],
)
def test_a_first_change_makes_a_guest(app: Stage, path: str, change: object) -> None:
    answer = app.post(path, change)
    [set_cookie] = guest_cookies(answer)
    assert answer.json()["guest"]["is_new"] is True
    assert app.guest(cookie(token_in(set_cookie)))["payload"] == {"cart": ["cup"]}


def test_a_failed_first_change_makes_no_guest(app: Stage) -> None:
    refused = app.try_to_post("/apply", [{"op": "remove", "path": "/cart"}])
    assert refused.status == 422
    assert guest_cookies(refused) == []


def test_a_token_that_gets_too_large_is_refused_with_the_numbers(app: Stage) -> None:
    refused = app.try_to_post("/replace", {"cart": ["x" * 4000]}, cookie(app.new_guest()))
    problem = refused.json()
    assert (refused.status, problem["code"]) == (422, "token_too_large")
    assert problem["facts"]["bytes"] > problem["facts"]["limit"] == 3800
    assert problem["message"]
    assert guest_cookies(refused) == []


@pytest.mark.parametrize(
    ("patch", "status", "code"),
    [
        pytest.param([{"op": "test", "path": "/name", "value": "y"}], 409, "patch_conflict", id="conflict"),
        pytest.param([{"op": "remove", "path": "/nowhere"}], 422, "invalid_patch", id="invalid"),
    ],
)
def test_a_refused_patch_has_the_service_s_code(app: Stage, patch: object, status: int, code: str) -> None:
    refused = app.try_to_post("/apply", patch, cookie(app.new_guest({"name": "x"})))
    assert (refused.status, refused.json()["code"]) == (status, code)
    assert guest_cookies(refused) == []


def test_a_refused_change_costs_the_next_visitor_nothing(app: Stage) -> None:
    """A service that refuses is there: else one visitor's large cart would leave all others without a guest."""
    app.try_to_post("/replace", {"cart": ["x" * 4000]}, cookie(app.new_guest()))
    assert len(guest_cookies(app.get(NAVIGATION))) == 1


@pytest.mark.parametrize("value", ["NaN", '"\\ud800"', "[" * 970 + "]" * 970], ids=["NaN", "half a character", "deep"])
def test_what_nobody_can_encode_costs_the_next_visitor_nothing(app: Stage, value: str) -> None:
    headers = [*cookie(app.new_guest()), ("Content-Type", "application/json")]
    body = f'{{"cart": {value}}}'.encode()
    assert send(app.port, "/replace", method="POST", headers=headers, body=body).status >= 400
    assert len(guest_cookies(app.get(NAVIGATION))) == 1


def test_a_change_from_another_site_is_refused_where_no_cookie_is_seen(app: Stage) -> None:
    """The browser holds a Lax cookie back: a new guest's would replace it."""
    refused = app.try_to_post("/replace", {"cart": ["cup"]}, [("Sec-Fetch-Site", "cross-site")])
    assert (refused.status, refused.json()["code"]) == (503, "unreadable_guest")
    assert guest_cookies(refused) == []


@pytest.mark.parametrize("site", ["same-origin", "same-site", "none"])
def test_a_first_change_from_the_site_itself_makes_a_guest(app: Stage, site: str) -> None:
    """A sibling subdomain's request carries Lax cookies: where there is none, there is no guest."""
    assert len(guest_cookies(app.post("/replace", {"cart": ["cup"]}, [("Sec-Fetch-Site", site)]))) == 1


def test_a_failed_response_sets_no_cookie(app: Stage) -> None:
    failed = app.try_to_post("/fail", {"cart": ["cup"]}, cookie(app.new_guest()))
    assert failed.status == 500
    assert guest_cookies(failed) == []


def test_a_change_after_the_response_began_is_refused(app: Stage) -> None:
    """Its cookie would not reach the browser."""
    answer = app.post("/late", {"cart": ["cup"]}, cookie(app.new_guest()))
    assert re.fullmatch(rb"started\s*response_started", answer.body)


DAY_S = 86_400


@pytest.mark.parametrize(("age_s", "renewed"), [(DAY_S + 60, True), (DAY_S - 600, False)], ids=["old", "young"])
def test_a_guest_is_renewed_a_day_after_it_was_signed(app: Stage, age_s: int, *, renewed: bool) -> None:
    """Safari forgets a cookie after seven days where a CDN answers."""
    token = app.new_guest({"cart": ["cup"]})
    old = app.signed(token, iat=int(time.time()) - age_s)
    answer = app.get([*NAVIGATION, *cookie(old)])
    assert len(guest_cookies(answer)) == renewed
    guest = answer.json()["guest"]
    assert (guest["id"], guest["version"], guest["payload"], guest["is_new"]) == (
        app.guest(cookie(token))["id"],
        1,
        {"cart": ["cup"]},
        False,
    )


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(FETCH, id="fetch"),
        pytest.param([("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "image")], id="an image"),
        pytest.param([*NAVIGATION, ("Sec-Purpose", "prefetch")], id="a prefetch"),
    ],
)
def test_no_page_no_renewal(app: Stage, headers: Headers) -> None:
    """Its cookie could overtake that of a change."""
    old = app.signed(app.new_guest(), iat=int(time.time()) - 30 * DAY_S)
    answer = app.get([*headers, *cookie(old)])
    assert answer.json()["guest"]["version"] == 1
    assert guest_cookies(answer) == []


@pytest.mark.core
def test_the_age_of_renewal_is_a_setting(stages: Stages) -> None:
    app = stages(GUEST_RENEW_AFTER="-3600")  # every token is older than minus an hour
    assert len(guest_cookies(app.get([*NAVIGATION, *cookie(app.new_guest())]))) == 1


@pytest.mark.core
def test_a_revoked_guest_starts_over_with_the_next_change(stages: Stages) -> None:
    """An offline check does not see the revocation; the service's answer to the change says so."""
    app = stages()
    revoked = revoked_guest(app)
    for path, change in (("/replace", {"cart": ["cup"]}), ("/patch", {"cart": ["cup"]})):
        [set_cookie] = guest_cookies(app.post(path, change, cookie(revoked)))
        guest = app.guest(cookie(token_in(set_cookie)))
        assert guest["payload"] == {"cart": ["cup"]}
        assert app.service.post("/v1/verify", {"token": token_in(set_cookie)}).json()["active"] is True


def revoked_guest(app: Stage) -> str:
    """The token of a guest with a bowl, revoked by its time."""
    guest = app.service.issue(payload={"cart": ["bowl"]})
    wait_until(lambda: app.service.issue()["issued_at"] > guest["issued_at"], what="the second is over")
    app.service.command("keys", "revoke", "--before", "now")
    wait_until(
        lambda: app.service.post("/v1/verify", {"token": guest["token"]}).json().get("reason") == "revoked",
        what="the service refuses the guest",
    )
    token: str = guest["token"]
    return token


def directives(cache_control: list[str]) -> set[str]:
    return {each.strip() for line in cache_control for each in line.split(",")}


def test_a_public_page_that_sets_a_cookie_becomes_private(app: Stage) -> None:
    answer = app.get(NAVIGATION, "/public")
    assert len(guest_cookies(answer)) == 1
    assert directives(answer.all("Cache-Control")) == {"private", "max-age=60"}


def test_a_public_page_that_sets_no_cookie_stays_public(app: Stage) -> None:
    answer = app.get(FETCH, "/public")
    assert directives(answer.all("Cache-Control")) == {"public", "max-age=60", "s-maxage=600"}


@pytest.mark.parametrize(("path", "kept"), [("/no-store", {"no-store"}), ("/", set())])
def test_a_page_that_sets_a_cookie_is_private(app: Stage, path: str, kept: set[str]) -> None:
    answer = app.get(NAVIGATION, path)
    assert directives(answer.all("Cache-Control")) == {"private", *kept}


def test_a_bearer_token_is_read_where_there_is_no_cookie(app: Stage) -> None:
    token, other = app.new_guest({"cart": ["cup"]}), app.new_guest()
    assert app.guest(bearer(token))["payload"] == {"cart": ["cup"]}
    assert app.guest([*bearer(other), *cookie(token)])["payload"] == {"cart": ["cup"]}


def test_a_bearer_token_is_followed_by_one_in_a_header(app: Stage) -> None:
    answer = app.post("/replace", {"cart": ["cup"]}, bearer(app.new_guest()))
    assert answer.all("Set-Cookie") == []
    [token] = answer.all("X-Guest-Token")
    assert app.guest(bearer(token))["payload"] == {"cart": ["cup"]}
    assert "private" in directives(answer.all("Cache-Control"))


def test_a_login_with_a_bearer_token_gives_the_next_one_in_a_header(app: Stage) -> None:
    answer = app.post("/login", {}, bearer(app.new_guest({"cart": ["cup"]})))
    assert answer.json()["merged"] is True
    assert answer.all("Set-Cookie") == []
    [token] = answer.all("X-Guest-Token")
    assert app.guest(bearer(token))["payload"] == {}


def test_a_cookie_is_never_answered_in_a_header(app: Stage) -> None:
    assert app.post("/replace", {}, cookie(app.new_guest())).all("X-Guest-Token") == []


def test_the_guest_s_id_goes_with_what_the_service_is_asked(app: Stage) -> None:
    """A balancer may keep a guest at one replica by it."""
    guest = app.service.issue(payload={"cart": ["cup"]})
    for path, body in (("/patch", {"seen": 1}), ("/login", {})):
        app.front.requests.clear()
        app.post(path, body, cookie(guest["token"]))
        [asked] = [request for request in app.front.requests if request.path.startswith("/v1/")]
        assert asked.headers["x-guest-id"] == guest["subject"]


def test_one_visitor_s_cookies_never_go_with_another_s_request(app: Stage) -> None:
    first, second = (app.get(NAVIGATION) for _ in range(2))
    assert first.json()["guest"]["id"] != second.json()["guest"]["id"]
    assert app.front.cookies == []


def test_no_other_cookie_of_the_service_s_side_reaches_the_visitor(app: Stage) -> None:
    [set_cookie] = app.get(NAVIGATION).all("Set-Cookie")
    assert set_cookie.startswith(f"{COOKIE}=")
