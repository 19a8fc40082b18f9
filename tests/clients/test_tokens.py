"""Which tokens count: the offline verification, and the keys that it follows."""

import time

import pytest

from tests.clients.conftest import Stages
from tests.clients.stage import (
    FETCH,
    KEYS,
    NAVIGATION,
    Stage,
    bearer,
    cookie,
    cookies,
    guest_cookies,
    of_unknown_key,
    token_in,
)
from tests.gateways.guest_service import ISSUER, forgeries
from tests.gateways.processes import wait_until

FORGERIES = [
    "tampered claims",
    "tampered signature",
    "alg none",
    "alg None with the signature",
    "signed by a stranger",
    "signed with HS256",
    "no token at all",
]


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forged_token_is_no_guest_and_replaced_on_a_page(app: Stage, kind: str) -> None:
    forged = forgeries(app.new_guest())[kind]
    assert app.guest(cookie(forged)) is None
    assert app.guest(bearer(forged)) is None
    assert len(guest_cookies(app.get([*NAVIGATION, *cookie(forged)]))) == 1


def test_every_forgery_is_tried(app: Stage) -> None:
    assert list(forgeries(app.new_guest())) == FORGERIES


@pytest.mark.parametrize(
    ("claims", "typ", "known"),
    [
        pytest.param({"iat": 4_000_000_000}, "guest+jwt", True, id="a clock that is ahead"),
        pytest.param({}, "JWT", False, id="another type"),
        pytest.param({}, "at+jwt", False, id="an access token"),
        pytest.param({"exp": 1_000_000_000}, "guest+jwt", False, id="expired"),
        pytest.param({"iss": "https://other.example"}, "guest+jwt", False, id="another issuer"),
        pytest.param({"aud": "shop"}, "guest+jwt", True, id="an audience"),
    ],
)
def test_what_the_service_s_key_signed_is_checked_too(
    app: Stage, claims: dict[str, object], typ: str, *, known: bool
) -> None:
    token = app.signed(app.new_guest(), typ=typ, **claims)
    assert bool(app.guest([*FETCH, *cookie(token)])) is known


def test_an_exchanged_access_token_is_no_guest(app: Stage) -> None:
    token = app.service.access_token(app.new_guest())
    assert app.guest([*FETCH, *cookie(token)]) is None
    assert app.guest([*FETCH, *bearer(token)]) is None


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("\u00e9" * 8, id="not ASCII"),
        pytest.param("\udcff.\udcff.\udcff", id="not UTF-8"),
        pytest.param("W1tbW1tbW1tb" * 400 + ".e30.AA", id="a header of nested lists"),
        pytest.param("", id="nothing"),
    ],
)
def test_a_cookie_that_is_no_token_is_replaced_on_a_page(app: Stage, value: str) -> None:
    headers = [(name, text.encode("utf-8", "surrogateescape").decode("latin-1")) for name, text in cookie(value)]
    assert len(guest_cookies(app.get([*NAVIGATION, *headers]))) == 1


def test_a_token_of_an_unknown_key_comes_after_a_good_one(app: Stage) -> None:
    guest = app.service.issue()
    assert app.guest([*FETCH, *cookies(of_unknown_key(), guest["token"])])["id"] == guest["subject"]


@pytest.mark.core
def test_a_guest_whose_key_is_new_stays_as_it_is(stages: Stages) -> None:
    """Just after `keys rotate --now` no client has the key that signs."""
    app = stages()
    app.warm_up()
    app.service.rotate_now()
    guest = app.service.issue(payload={"cart": ["cup"]})
    for headers in (FETCH, NAVIGATION):
        page = app.get([*headers, *cookie(guest["token"])])
        assert page.json()["guest"]["payload"] == {"cart": ["cup"]}
        assert guest_cookies(page) == []
    changed = app.post("/patch", {"cart": ["cup", "bowl"]}, cookie(guest["token"]))
    assert changed.json()["guest"]["id"] == guest["subject"]
    [set_cookie] = guest_cookies(changed)
    after = app.guest([*NAVIGATION, *cookie(token_in(set_cookie))])
    assert (after["id"], after["payload"]) == (guest["subject"], {"cart": ["cup", "bowl"]})
    assert "guest-sessions" not in app.log  # nothing was wrong


@pytest.mark.core
def test_a_guest_behind_junk_is_found_before_the_keys_are_there(stages: Stages) -> None:
    app = stages(state="{}")  # no keys
    guest = app.service.issue()
    app.front.state = "open"
    wait_until(lambda: app.guest([*FETCH, *cookies(of_unknown_key(), guest["token"])]), what="the service says so")
    page = app.get([*NAVIGATION, *cookies(of_unknown_key(), guest["token"])])
    assert page.json()["guest"]["id"] == guest["subject"]
    assert guest_cookies(page) == []


def test_unknown_keys_make_nobody_fetch_the_keys_again(app: Stage) -> None:
    fetched, begun = app.front.asked.count(KEYS), time.monotonic()
    for number in range(20):
        assert app.guest(cookie(of_unknown_key(f"unknown-{number}"))) is None
    due = 2 + (time.monotonic() - begun) / 5  # by the clock
    assert app.front.asked.count(KEYS) <= fetched + due


def test_a_visitor_with_many_unknown_keys_makes_few_calls(app: Stage) -> None:
    app.front.asked.clear()
    app.get([*FETCH, *cookies(*(of_unknown_key(f"unknown-{number}") for number in range(40)))])
    assert len(app.asked()) <= 4


@pytest.mark.core
def test_a_guest_with_the_service_s_audience_is_known(stages: Stages) -> None:
    app = stages(service={"GUEST_AUDIENCE": "shop"})
    app.warm_up()
    guest = app.service.issue()
    page = app.get([*NAVIGATION, *cookie(guest["token"])])
    assert page.json()["guest"]["id"] == guest["subject"]
    assert guest_cookies(page) == []


@pytest.mark.core
def test_guests_of_all_issuers_that_are_named_are_known(stages: Stages) -> None:
    other = "https://other.example"
    app = stages(service={"GUEST_ISSUER": f"{other},{ISSUER}"}, GUEST_ISSUER=f"{ISSUER},{other}")
    app.warm_up()
    guest = app.service.issue()
    assert app.guest(cookie(guest["token"]))["id"] == guest["subject"]


@pytest.mark.core
def test_a_wrong_api_key_is_in_the_log(stages: Stages) -> None:
    app = stages(service={"GUEST_API_KEYS": "another-api-key-of-the-service"})
    assert app.get(NAVIGATION).json() == {"guest": None}
    assert "unauthorized" in app.log
    refused = app.try_to_post("/replace", {"cart": ["cup"]})
    assert (refused.status, refused.json()["code"]) == (422, "unauthorized")
    assert "an-api-key-of-the-example" not in app.log


@pytest.mark.core
def test_what_answers_in_place_of_the_keys_does_not_end_their_following(app: Stage) -> None:
    token = app.new_guest()
    others = [
        '{"token": "x"}',
        '{"keys": []}',
        '{"keys": [{"kid": "a"}, "x"]}',
        '{"keys": [{"kty": "EC"}]}',
        '{"keys": 1}',
    ]
    for state in others:
        app.front.state = state
        app.front.asked.clear()
        wait_until(lambda: KEYS in app.front.asked, what="they were given")
        assert app.guest(cookie(token))["id"].startswith("G-"), state
    app.reopen()
