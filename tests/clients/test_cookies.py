"""The guest's cookie among others: planted ones, twins, several names, and its end."""

import itertools

import pytest

from tests.clients.conftest import Stages
from tests.clients.stage import (
    FETCH,
    NAVIGATION,
    Headers,
    Stage,
    attributes,
    cookie,
    cookies,
    guest_cookies,
    token_in,
)
from tests.gateways.guest_service import COOKIE, forgeries
from tests.gateways.processes import send

# Everything that Unicode, Python's str.strip() or JavaScript's \s takes for white space but SP and HTAB, characters
# that show nothing, and bytes that are no UTF-8.
SPACES = [
    *(
        each.encode()
        for each in "\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2028\u2029\u202f\u205f\u3000\ufeff\u200b\u2060"
    ),
    *(chr(each).encode() for each in range(0x2000, 0x200B)),
    *(bytes([each]) for each in (0x85, 0xA0, 0xAD, 0xFF)),
]


def test_a_planted_name_is_another_name(app: Stage) -> None:
    """A sibling subdomain can set it, as browsers see no prefix in it."""
    own, planted = app.service.issue(), app.new_guest({"cart": ["planted"]})
    after_it = {"": [None], f"; {COOKIE}={own['token']}": [None, own["subject"]]}
    taken = []
    for space, before, after in itertools.product(SPACES, ("", "theme=dark; "), after_it):
        line = f"{before}{space.decode('latin-1')}{COOKIE}={planted}{after}"
        answer = send(app.port, "/", headers=[*FETCH, ("Cookie", line)])
        if answer.status == 400:  # the server takes no such byte in a header
            continue
        assert answer.status == 200
        guest = answer.json()["guest"]
        if (guest and guest["id"]) not in after_it[after]:
            taken.append((space, before, after))
    assert taken == []


@pytest.mark.parametrize("space", [" ", "\t", "", " \t "], ids=["SP", "HTAB", "none", "several"])
def test_white_space_around_a_cookie_is_not_part_of_it(app: Stage, space: str) -> None:
    guest = app.service.issue()
    header = f"theme=dark;{space}{COOKIE}={guest['token']}{space};other=1"
    assert app.guest([*FETCH, ("Cookie", header)])["id"] == guest["subject"]


def test_a_cookie_of_another_name_is_no_guest(app: Stage) -> None:
    token = app.new_guest()
    lines = f"other={token}; {COOKIE}x={token}; x{COOKIE}={token}; {COOKIE.upper()}={token}"
    assert app.guest([("Cookie", lines)]) is None


def test_a_quoted_value_is_read_alike(app: Stage) -> None:
    guest = app.service.issue()
    page = app.get([*NAVIGATION, *cookie(f'"{guest["token"]}"')])
    assert page.json()["guest"]["id"] == guest["subject"]
    assert guest_cookies(page) == []


def test_cookies_in_several_lines_are_read_to_their_end(app: Stage, name: str) -> None:
    """As HTTP/2 may bring them (RFC 9113, section 8.2.3)."""
    if name == "django-wsgi":
        pytest.skip("WSGI joins header lines with commas before Django sees them")
    guest = app.service.issue()
    page = app.get([*NAVIGATION, ("Cookie", "theme=dark"), *cookie(guest["token"])])
    assert page.json()["guest"]["id"] == guest["subject"]
    assert guest_cookies(page) == []


def test_of_several_cookies_the_first_good_one_counts(app: Stage) -> None:
    guest = app.service.issue()
    for kind, bad in forgeries(guest["token"]).items():
        for tokens in ((bad, guest["token"]), (guest["token"], bad)):
            page = app.get([*NAVIGATION, *cookies(*tokens)])
            assert page.json()["guest"]["id"] == guest["subject"], kind
            assert guest_cookies(page) == [], kind


def test_of_two_guests_the_first_one_counts(app: Stage) -> None:
    first, second = app.service.issue(), app.service.issue()
    second = app.changed(second["token"], {"cart": ["cup"]})
    assert app.guest(cookies(first["token"], second["token"]))["id"] == first["subject"]
    assert app.guest(cookies(second["token"], first["token"]))["id"] == second["subject"]


def test_of_one_guest_s_tokens_the_newest_version_counts(app: Stage) -> None:
    """A domain that is set later leaves a host-only twin behind, which browsers send first."""
    old = app.service.issue()
    new = app.changed(old["token"], {"cart": ["cup"]})
    other = app.changed(app.changed(app.new_guest(), {})["token"], {"cart": ["other"]})
    for tokens in ((old, new), (new, old), (old, other, new)):
        guest = app.guest(cookies(*(each["token"] for each in tokens)))
        assert (guest["id"], guest["version"], guest["payload"]) == (old["subject"], 2, {"cart": ["cup"]})


def test_of_one_version_the_token_that_was_signed_last_counts(app: Stage) -> None:
    token = app.new_guest()
    later = app.signed(token, iat=4_000_000_000, payload={"cart": ["later"]})
    for tokens in ((token, later), (later, token)):
        assert app.guest(cookies(*tokens))["payload"] == {"cart": ["later"]}


@pytest.mark.parametrize(
    ("subject", "one_guest"),
    [
        pytest.param("G-01234567-89ab-8def-8123-456789abcdef", True, id="of an Idempotency-Key"),
        pytest.param("G-01234567-89ab-4def-8123-456789abcdef", False, id="random"),
        pytest.param("01234567-89ab-8def-8123-456789abcdef", False, id="a caller's own"),
    ],
)
def test_a_subject_of_an_idempotency_key_is_one_guest(app: Stage, subject: str, *, one_guest: bool) -> None:
    token = app.new_guest()
    first = app.signed(token, sub=subject, orig_iat=1_700_000_000)
    second = app.signed(token, sub=subject, orig_iat=1_700_000_009, ver=2, payload={"cart": ["cup"]})
    assert app.guest(cookies(first, second))["version"] == (2 if one_guest else 1)


LIST = f"{COOKIE},guest,visitor"


@pytest.mark.core
def test_a_guest_under_a_later_name_is_moved_on_a_page(stages: Stages) -> None:
    app = stages(GUEST_COOKIE_NAME=LIST)
    guest = app.service.issue(payload={"cart": ["cup"]})
    for later in ("guest", "visitor"):
        fetched = app.get([*FETCH, *cookie(guest["token"], later)])
        assert fetched.json()["guest"]["id"] == guest["subject"]
        assert fetched.all("Set-Cookie") == []
        page = app.get([*NAVIGATION, *cookie(guest["token"], later)])
        assert page.json()["guest"]["id"] == guest["subject"]
        [set_cookie] = guest_cookies(page)
        assert app.guest(cookie(token_in(set_cookie)))["payload"] == {"cart": ["cup"]}


@pytest.mark.core
def test_a_later_name_counts_only_where_no_earlier_one_is_good(stages: Stages) -> None:
    """A plain name, which a sibling subdomain can set, opens nothing that `__Host-` closes."""
    app = stages(GUEST_COOKIE_NAME=LIST)
    own, planted = app.service.issue(), app.new_guest({"cart": ["planted"]})
    both: Headers = [("Cookie", f"visitor={planted}; guest={planted}; {COOKIE}={own['token']}")]
    page = app.get([*NAVIGATION, *both])
    assert page.json()["guest"]["id"] == own["subject"]
    assert guest_cookies(page) == []
    login = app.post("/login", {}, both).json()
    assert "planted" not in login["session"]["cart"]
    bad = forgeries(own["token"])["tampered signature"]
    assert app.guest([("Cookie", f"{COOKIE}={bad}; visitor={own['token']}")])["id"] == own["subject"]


@pytest.mark.core
@pytest.mark.parametrize(
    ("issuer", "expected"), [("https://shop.example", "__Host-guest"), ("http://shop.example", "guest")]
)
def test_the_cookie_s_name_follows_from_the_issuer(stages: Stages, issuer: str, expected: str) -> None:
    app = stages(service={"GUEST_ISSUER": issuer}, GUEST_ISSUER=issuer)
    [set_cookie] = guest_cookies(app.get(NAVIGATION), expected)
    assert app.guest(cookie(token_in(set_cookie), expected))["version"] == 1


@pytest.mark.core
def test_another_name_of_the_service_s_cookie_is_in_the_log(stages: Stages) -> None:
    app = stages(service={"GUEST_COOKIE_NAME": "visitor"})
    assert app.get(NAVIGATION).all("Set-Cookie") == []
    assert "visitor" in app.log
    assert COOKIE in app.log


def test_another_issuer_of_the_service_is_in_the_log(stages: Stages) -> None:
    app = stages(service={"GUEST_ISSUER": "https://moved.example"})
    app.get(NAVIGATION)
    assert "https://moved.example" in app.log


def deletions(lines: list[str]) -> list[tuple[str, str | None]]:
    """The names and domains that `Set-Cookie` values delete."""
    found = []
    for line in lines:
        assert token_in(line) == ""
        assert attributes(line)["max-age"] == "0"
        assert attributes(line)["path"] == "/"
        found.append((line.partition("=")[0], attributes(line).get("domain")))
    return sorted(found, key=str)


def test_forgetting_deletes_the_cookie(app: Stage) -> None:
    answer = app.post("/logout", {}, cookie(app.new_guest()))
    assert deletions(answer.all("Set-Cookie")) == [(COOKIE, None)]
    assert "secure" in attributes(answer.all("Set-Cookie")[0])  # else browsers ignore the line
    assert "private" in ",".join(answer.all("Cache-Control"))


def test_forgetting_needs_no_service(app: Stage) -> None:
    """Else the next person at the computer has the last one's cart."""
    token = app.new_guest({"cart": ["cup"]})
    app.front.asked.clear()
    app.front.state = "silent"
    assert deletions(app.post("/logout", {}, cookie(token)).all("Set-Cookie")) == [(COOKIE, None)]
    assert app.asked() == []


def test_forgetting_deletes_every_name_and_the_host_only_twin(stages: Stages) -> None:
    domain = "shop.example"
    app = stages(
        service={"GUEST_COOKIE_NAME": "guest", "GUEST_COOKIE_DOMAIN": domain},
        GUEST_COOKIE_NAME=f"guest,{COOKIE}",
        GUEST_COOKIE_DOMAIN=domain,
    )
    answer = app.post("/logout", {}, cookie(app.new_guest(), "guest"))
    assert deletions(answer.all("Set-Cookie")) == sorted([(COOKIE, None), ("guest", None), ("guest", domain)], key=str)


@pytest.mark.core
def test_a_domain_s_cookie_is_set_and_read(stages: Stages) -> None:
    domain = "shop.example"
    app = stages(service={"GUEST_COOKIE_DOMAIN": domain}, GUEST_COOKIE_DOMAIN=domain)
    [set_cookie] = guest_cookies(app.get(NAVIGATION), "guest")
    assert attributes(set_cookie)["domain"] == domain
    assert app.guest(cookie(token_in(set_cookie), "guest"))["version"] == 1
