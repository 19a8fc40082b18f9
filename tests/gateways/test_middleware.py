"""The drop-in middleware of examples/middleware, each in its small application, as a process of its own."""

import asyncio
import contextlib
import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.gateways.front import Front, front
from tests.gateways.gateways import EXAMPLES
from tests.gateways.guest_service import COOKIE, ISSUER, GuestService, forgeries, guest_service
from tests.gateways.processes import Answer, running, send, wait_until
from tests.gateways.test_ensuring import NAVIGATION, guest_cookies, token_in
from tests.gateways.test_guarding import Headers, cookie
from tests.ports import free_port

API_KEY = "an-api-key-of-the-example"
FRAMEWORKS = {
    "aiohttp": "python/app_aiohttp.py",
    "starlette": "python/app_starlette.py",
    "django": "python/app_django.py",
}


@dataclass(frozen=True)
class App:
    port: int
    service: GuestService

    def page(self, headers: Headers) -> Answer:
        answer = send(self.port, "/", headers=headers)
        assert answer.status == 200
        return answer

    def post(self, path: str, body: Any, headers: Headers) -> Answer:
        answer = self.try_to_post(path, body, headers)
        assert answer.status == 200
        return answer

    def try_to_post(self, path: str, body: Any, headers: Headers) -> Answer:
        headers = [*headers, ("Content-Type", "application/json")]
        return send(self.port, path, method="POST", headers=headers, body=json.dumps(body).encode())


@contextlib.contextmanager
def application(
    framework: str, service: GuestService, folder: Path, *, examples: Path = EXAMPLES / "middleware", **settings: str
) -> Iterator[App]:
    port = free_port()
    environment = os.environ | {
        "GUEST_URL": f"http://{service.address}",
        "GUEST_ISSUER": ISSUER,
        "GUEST_COOKIE_NAME": COOKIE,
        "GUEST_API_KEY": f"{API_KEY}\n",  # as a file brings it
        **settings,
    }
    command = [sys.executable, examples / FRAMEWORKS[framework], str(port)]
    with running(command, port=port, log=folder / f"{framework}.log", env=environment):
        yield App(port, service)


@pytest.fixture(scope="module", params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def app(framework: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp(framework)
    with guest_service(folder, GUEST_API_KEYS=API_KEY) as service, application(framework, service, folder) as started:
        warm_up(started)
        yield started


def warm_up(app: App) -> None:
    """Returns once the application has the keys: until then the service signs each guest again."""
    guest = app.service.issue()
    wait_until(
        lambda: app.page(cookie(guest["token"])).json()["guest"]["jti"] == guest["token_id"], what="the keys are there"
    )


def new_guest(app: App) -> str:
    [set_cookie] = guest_cookies(app.page(NAVIGATION))
    return token_in(set_cookie)


def of_unknown_key(kid: str = "unknown") -> str:
    """A token that looks like a guest's, by a key of which nobody has heard."""
    return jwt.encode({"sub": "x"}, "x" * 32, headers={"typ": "guest+jwt", "kid": kid})


def test_a_first_page_gets_a_guest_that_stays(app: App) -> None:
    first = app.page(NAVIGATION)
    [set_cookie] = guest_cookies(first)
    assert {"HttpOnly", "Path=/", "SameSite=Lax", "Secure"} <= {part.strip() for part in set_cookie.split(";")}
    assert f"max-age={34_560_000}" in set_cookie.lower()
    again = app.page([*NAVIGATION, *cookie(token_in(set_cookie))])
    assert again.json()["guest"]["sub"] == first.json()["guest"]["sub"]
    assert guest_cookies(again) == []


FETCH = [("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Dest", "empty")]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        FETCH,
        [("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "iframe")],
        [("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Dest", "document")],
        [*NAVIGATION, ("Sec-Purpose", "prefetch")],
        [*NAVIGATION, ("Purpose", "prefetch")],
    ],
)
def test_what_is_no_page_navigation_gets_no_guest(app: App, headers: Headers) -> None:
    answer = app.page(headers)
    assert answer.json() == {"guest": None}
    assert guest_cookies(answer) == []


def test_a_forged_token_is_no_guest(app: App) -> None:
    for name, token in forgeries(new_guest(app)).items():
        assert not app.page(cookie(token)).json()["guest"], name


def test_a_forged_token_is_replaced_on_a_page(app: App) -> None:
    for name, token in forgeries(new_guest(app)).items():
        assert len(guest_cookies(app.page([*NAVIGATION, *cookie(token)]))) == 1, name


def test_what_is_saved_travels_in_the_cookie(app: App) -> None:
    token = new_guest(app)
    saved = app.post("/cart", ["cup"], cookie(token))
    [set_cookie] = guest_cookies(saved)
    claims = app.page(cookie(token_in(set_cookie))).json()["guest"]
    assert (claims["payload"], claims["ver"]) == ({"cart": ["cup"]}, 2)


def test_a_first_save_without_a_guest_makes_one(app: App) -> None:
    [set_cookie] = guest_cookies(app.post("/cart", ["bowl"], []))
    assert app.page(cookie(token_in(set_cookie))).json()["guest"]["payload"] == {"cart": ["bowl"]}


def test_a_login_hands_over_once_and_starts_a_clean_guest(app: App) -> None:
    [set_cookie] = guest_cookies(app.post("/cart", ["vase"], cookie(new_guest(app))))
    guest = token_in(set_cookie)
    first = app.post("/login", {}, cookie(guest))
    assert first.json()["merged"] is True
    assert first.json()["session"]["name"] == "Ada"
    assert first.json()["session"]["cart"][-1] == "vase"
    again = app.post("/login", {}, cookie(guest))
    assert again.json() == {"session": first.json()["session"], "merged": False}
    [next_cookie] = guest_cookies(first)
    after = app.page(cookie(token_in(next_cookie))).json()["guest"]
    assert after["payload"] == {}


@pytest.mark.parametrize("headers", [[], cookie("not-a-token")])
def test_a_login_without_a_good_token_goes_through(app: App, headers: Headers) -> None:
    assert app.post("/login", {}, headers).json()["merged"] is False


def test_without_the_service_known_guests_stay_and_no_cookie_is_replaced(framework: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as life:
        service = life.enter_context(guest_service(tmp_path, GUEST_API_KEYS=API_KEY))
        with contextlib.ExitStack() as apps:
            warm = apps.enter_context(application(framework, service, tmp_path))
            warm_up(warm)
            token = new_guest(warm)
            session = warm.post("/login", {}, []).json()["session"]
            life.close()
            cold = apps.enter_context(application(framework, service, tmp_path))
            assert warm.page([*NAVIGATION, *cookie(token)]).json()["guest"]["sub"].startswith("G-")
            for answer in (warm.page(NAVIGATION), cold.page([*NAVIGATION, *cookie(token)])):
                assert answer.json() == {"guest": None}
                assert guest_cookies(answer) == []
            login = warm.post("/login", {}, cookie(token))
            assert login.json() == {"session": session, "merged": False}
            assert guest_cookies(login) == []


def test_an_expired_token_is_no_guest(framework: str, tmp_path: Path) -> None:
    with guest_service(tmp_path) as service, application(framework, service, tmp_path) as app:
        token = service.expired_token()
        wait_until(
            lambda: not app.page(cookie(token)).json()["guest"], what="the application refuses it too", within_s=20
        )


def test_a_guest_that_was_revoked_by_time_starts_anew_with_the_next_change(framework: str, tmp_path: Path) -> None:
    """An offline check cannot see such a revocation; the service's answer to a change tells."""
    with guest_service(tmp_path) as service, application(framework, service, tmp_path) as app:
        guest = service.issue()
        # The clock has to be past the second of the token's `orig_iat`.
        wait_until(lambda: service.issue()["issued_at"] > guest["issued_at"], what="the second is over")
        service.command("keys", "revoke", "--before", "now")
        wait_until(
            lambda: service.post("/v1/verify", {"token": guest["token"]}).json().get("reason") == "revoked",
            what="the service refuses the guest",
        )
        [set_cookie] = guest_cookies(app.post("/cart", ["cup"], cookie(guest["token"])))
        claims = app.page(cookie(token_in(set_cookie))).json()["guest"]
        assert claims["sub"] != guest["subject"]
        assert claims["payload"] == {"cart": ["cup"]}


def test_an_old_token_is_renewed_on_a_page_and_nowhere_else(framework: str, tmp_path: Path) -> None:
    with (
        guest_service(tmp_path) as service,
        # Older than minus one hour is every token.
        application(framework, service, tmp_path, GUEST_RENEW_AFTER="-3600") as app,
    ):
        guest = service.issue(payload={"cart": ["cup"]})
        assert guest_cookies(app.page([*FETCH, *cookie(guest["token"])])) == []
        renewed = app.page([*NAVIGATION, *cookie(guest["token"])])
        [set_cookie] = guest_cookies(renewed)
        assert token_in(set_cookie) != guest["token"]
        claims = renewed.json()["guest"]
        assert (claims["sub"], claims["ver"], claims["payload"]) == (guest["subject"], 1, {"cart": ["cup"]})


CROSS_SITE = [
    ("Sec-Fetch-Site", "cross-site"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Dest", "document"),
    ("Origin", "https://identity.example"),
]


def test_a_login_that_comes_from_another_site_leaves_the_guest_alone(app: App) -> None:
    """The browser holds a Lax cookie back on such a POST: a new guest's would replace it, and its cart."""
    login = app.post("/login", {}, CROSS_SITE)
    assert login.json()["merged"] is False
    assert guest_cookies(login) == []


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_save_that_comes_from_another_site_without_the_cookie_is_refused(app: App, site: str) -> None:
    saved = app.try_to_post("/cart", ["cup"], [("Sec-Fetch-Site", site)])
    assert saved.status == 503
    assert guest_cookies(saved) == []


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_a_first_save_from_the_site_itself_makes_a_guest(app: App, site: str) -> None:
    assert len(guest_cookies(app.post("/cart", ["cup"], [("Sec-Fetch-Site", site)]))) == 1


def test_of_several_cookies_the_first_good_one_counts(app: App) -> None:
    guest = app.service.issue()
    for name, bad in forgeries(guest["token"]).items():
        for tokens in ([bad, guest["token"]], [guest["token"], bad]):
            several = ("Cookie", "; ".join(f"{COOKIE}={token}" for token in tokens))
            page = app.page([*NAVIGATION, several])
            assert page.json()["guest"]["sub"] == guest["subject"], name
            assert guest_cookies(page) == [], name


def test_a_token_of_an_unknown_key_comes_after_a_good_one(app: App) -> None:
    guest = app.service.issue()
    page = app.page([*FETCH, ("Cookie", f"{COOKIE}={of_unknown_key()}; {COOKIE}={guest['token']}")])
    assert page.json()["guest"]["sub"] == guest["subject"]


@pytest.mark.parametrize(("typ", "ahead_s", "known"), [("guest+jwt", 3600, True), ("JWT", 0, False)])
def test_of_tokens_by_the_service_s_key_those_of_the_typ_count_whatever_the_clock(
    app: App, typ: str, ahead_s: int, *, known: bool
) -> None:
    guest = app.service.issue()
    ring = json.loads(Path(app.service.environment["GUEST_KEYS_DIR"], "keyring.json").read_text())
    [key] = [each for each in ring["keys"] if each["kid"] == guest["key_id"]]
    claims = jwt.decode(guest["token"], options={"verify_signature": False})
    claims["iat"] += ahead_s
    token = jwt.encode(claims, jwt.PyJWK(key).key, "ES256", headers={"typ": typ, "kid": key["kid"]})
    assert bool(app.page([*FETCH, *cookie(token)]).json()["guest"]) is known


def test_a_cookie_of_another_name_is_no_guest(app: App) -> None:
    token = app.service.issue()["token"]
    assert app.page([("Cookie", f"other={token}; {COOKIE}x={token}; x{COOKIE}={token}")]).json() == {"guest": None}


# What Python's `str.strip` or JavaScript's `\\s` strips, except SP, HTAB and the control characters, which no HTTP
# parser lets through; as UTF-8, and those below 256 also as a single byte.
SPACES = [chr(code) for code in range(0x80, 0x10000) if chr(code).isspace()] + ["\ufeff"]
SPACE_BYTES = {space.encode() for space in SPACES} | {b"\xa0", b"\x85"}


@pytest.mark.parametrize("space", sorted(SPACE_BYTES), ids=bytes.hex)
def test_a_space_before_the_name_is_another_cookie(app: App, space: bytes) -> None:
    """A neighbouring subdomain can set such a cookie: for the browser its name has no `__Host-` prefix."""
    planted, own = app.service.issue(), app.service.issue()
    cookies = [f"{space.decode('latin-1')}{COOKIE}={planted['token']}", f"{COOKIE}={own['token']}"]
    for separator in ("; ", ";", ";\t"):
        # Never first in the line: Django's development server strips the line as Python does.
        alone, *both = [separator.join(["theme=dark", *each]) for each in (cookies[:1], cookies, cookies[::-1])]
        assert app.page([*FETCH, ("Cookie", alone)]).json() == {"guest": None}
        for each in both:
            assert app.page([*FETCH, ("Cookie", each)]).json()["guest"]["sub"] == own["subject"]


def test_cookies_in_several_lines_are_read_to_their_end(app: App, framework: str) -> None:
    """As HTTP/2 may bring them (RFC 9113, section 8.2.3)."""
    if framework == "django":
        pytest.skip("WSGI joins header lines with commas before Django sees them")
    guest = app.service.issue()
    page = app.page([*NAVIGATION, ("Cookie", "theme=dark"), *cookie(guest["token"])])
    assert page.json()["guest"]["sub"] == guest["subject"]
    assert guest_cookies(page) == []


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("\u00e9" * 8, id="not ASCII"),
        pytest.param("\udcff.\udcff.\udcff", id="not UTF-8"),
        pytest.param("W1tbW1tbW1tb" * 400 + ".e30.AA", id="a header of nested lists"),
        pytest.param("", id="nothing"),
    ],
)
def test_a_cookie_that_is_no_token_is_replaced_on_a_page(app: App, value: str) -> None:
    headers = [(name, text.encode("utf-8", "surrogateescape").decode("latin-1")) for name, text in cookie(value)]
    assert len(guest_cookies(app.page([*NAVIGATION, *headers]))) == 1


def test_a_guest_whose_key_is_new_stays_as_it_is(framework: str, tmp_path: Path) -> None:
    """After `keys rotate --now` nobody has the key yet that the next tokens are signed with."""
    with guest_service(tmp_path) as service, application(framework, service, tmp_path) as app:
        warm_up(app)
        service.rotate_now()
        guest = service.issue(payload={"cart": ["cup"]})
        fetched = app.page([*FETCH, *cookie(guest["token"])])
        assert fetched.json()["guest"]["payload"] == {"cart": ["cup"]}
        assert guest_cookies(fetched) == []
        page = app.page([*NAVIGATION, *cookie(guest["token"])])
        assert page.json()["guest"]["sub"] == guest["subject"]
        assert page.json()["guest"]["payload"] == {"cart": ["cup"]}
        assert guest_cookies(page) == []
        saved = app.post("/cart", ["cup", "bowl"], cookie(guest["token"]))
        assert saved.json()["guest"]["sub"] == guest["subject"]
        [set_cookie] = guest_cookies(saved)
        after = app.page([*NAVIGATION, *cookie(token_in(set_cookie))]).json()["guest"]
        assert (after["sub"], after["payload"]) == (guest["subject"], {"cart": ["cup", "bowl"]})
        assert "guest-sessions" not in (tmp_path / f"{framework}.log").read_text()  # nothing was amiss


def test_a_guest_with_an_audience_is_known(framework: str, tmp_path: Path) -> None:
    with (
        guest_service(tmp_path, GUEST_AUDIENCE="shop") as service,
        application(framework, service, tmp_path) as app,
    ):
        warm_up(app)
        guest = service.issue()
        page = app.page([*NAVIGATION, *cookie(guest["token"])])
        assert page.json()["guest"]["sub"] == guest["subject"]
        assert guest_cookies(page) == []


def changed_example(framework: str, folder: Path, *, old: str, new: str) -> Path:
    """A copy of the examples in which the framework's application has something else in one place."""
    copy = folder / "copy"
    language = Path(FRAMEWORKS[framework]).parent
    shutil.copytree(EXAMPLES / "middleware" / language, copy / language, symlinks=True)
    script = copy / FRAMEWORKS[framework]
    text = script.read_text()
    assert text.count(old) == 1
    script.write_text(text.replace(old, new))
    return copy


def handing_over_with(option: str, *, framework: str, folder: Path) -> Path:
    """A copy of the examples in which the login hands over with an option, as `strict=True`."""
    old, new = 'hand_over(users["ada"])', f'hand_over(users["ada"], {option})'
    return changed_example(framework, folder, old=old, new=new)


def test_a_login_that_fails_after_the_hand_over_leaves_the_guest_as_it_was(framework: str, tmp_path: Path) -> None:
    """The merge is in no session: with the next cookie, that of an empty guest, the cart would be nowhere."""
    stored, fails = 'users["ada"] = merge["payload"]', 'raise RuntimeError("the database is gone")'
    copy = changed_example(framework, tmp_path, old=stored, new=fails)
    with guest_service(tmp_path) as service, application(framework, service, tmp_path, examples=copy) as app:
        login = app.try_to_post("/login", {}, cookie(service.issue(payload={"cart": ["cup"]})["token"]))
        assert login.status == 500
        assert guest_cookies(login) == []


def test_guests_of_all_issuers_that_are_named_are_known(framework: str, tmp_path: Path) -> None:
    other = "https://other.example"
    with (
        guest_service(tmp_path, GUEST_ISSUER=f"{other},{ISSUER}") as service,
        application(framework, service, tmp_path, GUEST_ISSUER=f"{other},{ISSUER}") as both,
    ):
        warm_up(both)
        guest = service.issue()
        with application(framework, service, tmp_path) as one:
            # Until it has the keys, the service tells of them.
            wait_until(
                lambda: one.page(cookie(guest["token"])).json() == {"guest": None},
                what="the other issuer's is no guest",
            )
        assert both.page(cookie(guest["token"])).json()["guest"]["iss"] == other


def test_another_name_of_the_service_s_cookie_is_told_in_the_log(framework: str, tmp_path: Path) -> None:
    with (
        guest_service(tmp_path, GUEST_COOKIE_NAME="visitor") as service,
        application(framework, service, tmp_path) as app,
    ):
        assert app.page(NAVIGATION).all("Set-Cookie") == []
        assert f"another cookie than {COOKIE}" in (tmp_path / f"{framework}.log").read_text()


def test_a_hand_over_without_a_next_guest_takes_the_cookie_away(framework: str, tmp_path: Path) -> None:
    copy = handing_over_with("renew=False", framework=framework, folder=tmp_path)
    with guest_service(tmp_path) as service, application(framework, service, tmp_path, examples=copy) as app:
        guest = service.issue(payload={"cart": ["cup"]})
        login = app.post("/login", {}, cookie(guest["token"]))
        assert login.json()["session"]["cart"] == ["cup"]
        [set_cookie] = guest_cookies(login)
        assert token_in(set_cookie).strip('"') == ""
        assert "max-age=0" in set_cookie.lower()


def test_a_strict_hand_over_of_a_revoked_guest_lets_the_login_go_on(framework: str, tmp_path: Path) -> None:
    copy = handing_over_with("strict=True", framework=framework, folder=tmp_path)
    with guest_service(tmp_path) as service, application(framework, service, tmp_path, examples=copy) as app:
        guest = service.issue(payload={"cart": ["cup"]})
        wait_until(lambda: service.issue()["issued_at"] > guest["issued_at"], what="the second is over")
        service.command("keys", "revoke", "--before", "now")
        wait_until(
            lambda: service.post("/v1/verify", {"token": guest["token"]}).json().get("reason") == "revoked",
            what="the service refuses the guest",
        )
        login = app.post("/login", {}, cookie(guest["token"]))
        assert (login.json()["merged"], login.json()["session"]["name"]) == (False, "Ada")


KEYS = "/.well-known/jwks.json"


A_JWT = json.dumps({"token": jwt.encode({"sub": "x"}, "x" * 32)})
OTHER_ANSWERS = [A_JWT, '{"keys": []}', '{"keys": [{"kid": "a"}, "x"]}', '{"keys": [{"kty": "EC"}]}', '{"token": "x"}']


@pytest.fixture
def behind(framework: str, tmp_path: Path) -> Iterator[tuple[App, Front]]:
    with (
        guest_service(tmp_path) as service,
        front(service) as before,
        application(framework, service, tmp_path, GUEST_URL=before.url) as app,
    ):
        warm_up(app)
        yield app, before


def test_a_bad_gateway_before_the_service_is_an_outage_like_any_other(behind: tuple[App, Front]) -> None:
    app, before = behind
    token = new_guest(app)
    before.state = "bad gateway"
    assert app.page([*NAVIGATION, *cookie(token)]).json()["guest"]["sub"].startswith("G-")
    newcomer = app.page(NAVIGATION)
    assert newcomer.json() == {"guest": None}
    login = app.post("/login", {}, cookie(token))
    assert login.json() == {"session": {"name": "Ada"}, "merged": False}
    assert guest_cookies(newcomer) == guest_cookies(login) == []


def test_no_other_cookie_of_the_service_s_side_reaches_the_visitor(behind: tuple[App, Front]) -> None:
    app, _ = behind
    [set_cookie] = app.page(NAVIGATION).all("Set-Cookie")
    assert set_cookie.startswith(f"{COOKIE}=")


def test_no_visitor_s_cookie_goes_with_the_request_for_the_next(behind: tuple[App, Front]) -> None:
    app, before = behind
    assert new_guest(app) != new_guest(app)
    assert before.cookies == []


def test_a_service_that_answers_byte_by_byte_holds_nobody_up(framework: str, behind: tuple[App, Front]) -> None:
    if framework == "django":
        pytest.skip("it waits 3 s for each byte")
    app, before = behind
    before.state = "byte by byte"
    assert seconds_for(app, NAVIGATION) < 5


def test_answers_of_something_else_do_not_end_the_following_of_keys(behind: tuple[App, Front]) -> None:
    app, before = behind
    token = new_guest(app)
    for before.state in OTHER_ANSWERS:
        before.asked.clear()
        wait_until(lambda: KEYS in before.asked, what="they were given", within_s=15)
        assert app.page(cookie(token)).json()["guest"]["sub"].startswith("G-"), before.state
    before.state = "open"
    wait_until(lambda: guest_cookies(app.page(NAVIGATION)), what="newcomers get a guest again", within_s=15)


def seconds_for(app: App, headers: Headers) -> float:
    begun = time.monotonic()
    app.page(headers)
    return time.monotonic() - begun


def test_a_silent_service_holds_up_one_request_in_a_while_and_no_known_guest(
    framework: str, behind: tuple[App, Front], tmp_path: Path
) -> None:
    app, before = behind
    token = new_guest(app)
    before.state = "silent"
    assert seconds_for(app, NAVIGATION) < 5  # the first newcomer finds out
    with ThreadPoolExecutor(21) as visitors:
        strangers = [visitors.submit(seconds_for, app, [*NAVIGATION, *cookie(of_unknown_key())]) for _ in range(12)]
        newcomers = [visitors.submit(seconds_for, app, NAVIGATION) for _ in range(6)]
        known = [visitors.submit(seconds_for, app, [*NAVIGATION, *cookie(token)]) for _ in range(3)]
        assert max(visit.result() for visit in [*strangers, *newcomers, *known]) < 2.5
    assert "imeout" in (tmp_path / f"{framework}.log").read_text()
    before.state = "open"
    wait_until(lambda: guest_cookies(app.page(NAVIGATION)), what="newcomers get a guest again", within_s=15)


def test_strangers_at_a_silent_service_do_not_queue_up(framework: str, tmp_path: Path) -> None:
    """Keys that nobody has heard of, and none known yet: all wait together, not one after the other."""
    with guest_service(tmp_path) as service, front(service) as before:
        before.state = "silent"
        with (
            application(framework, service, tmp_path, GUEST_URL=before.url) as app,
            ThreadPoolExecutor(12) as visitors,
        ):
            waits = [visitors.submit(seconds_for, app, cookie(of_unknown_key())) for _ in range(12)]
            assert max(wait.result() for wait in waits) < 8


def test_unknown_keys_make_nobody_fetch_the_keys_again(behind: tuple[App, Front]) -> None:
    app, before = behind
    fetched = before.asked.count(KEYS)
    for number in range(20):
        assert app.page(cookie(of_unknown_key(f"unknown-{number}"))).json() == {"guest": None}
    assert before.asked.count(KEYS) <= fetched + 2  # those that are due by the clock


def test_a_refused_change_costs_the_next_visitor_nothing(app: App) -> None:
    """A service that refuses is there: else one visitor's large cart would leave all others without a guest."""
    refused = app.try_to_post("/cart", ["x" * 4000], cookie(new_guest(app)))
    assert refused.status == 503
    assert guest_cookies(refused) == []
    assert len(guest_cookies(app.page(NAVIGATION))) == 1


@pytest.mark.parametrize(
    "body", ["[NaN]", '["\\ud800"]', "[" * 970 + "]" * 970], ids=["NaN", "half a character", "deep"]
)
def test_a_change_that_nobody_can_encode_costs_the_next_visitor_nothing(app: App, body: str) -> None:
    headers = [*cookie(new_guest(app)), ("Content-Type", "application/json")]
    assert send(app.port, "/cart", method="POST", headers=headers, body=body.encode()).status >= 400
    assert len(guest_cookies(app.page(NAVIGATION))) == 1


def test_a_wrong_api_key_is_told_in_the_log(framework: str, tmp_path: Path) -> None:
    with (
        guest_service(tmp_path, GUEST_API_KEYS=API_KEY) as service,
        application(framework, service, tmp_path, GUEST_API_KEY="not-the-key-of-the-service") as app,
    ):
        assert app.page(NAVIGATION).json() == {"guest": None}
        assert "unauthorized" in (tmp_path / f"{framework}.log").read_text()


def test_a_guest_that_could_not_be_read_is_not_written_over(framework: str, tmp_path: Path) -> None:
    """The application saw no guest, so what it saves lacks what the guest had."""
    with guest_service(tmp_path) as service, front(service) as before:
        guest = service.issue(payload={"cart": ["cup"]})
        before.state = "bad gateway"
        with application(framework, service, tmp_path, GUEST_URL=before.url) as app:
            assert app.page([*NAVIGATION, *cookie(guest["token"])]).json() == {"guest": None}
            wait_until(lambda: KEYS in before.asked, what="the keys were asked for in vain")
            before.state = "open"
            saved = app.try_to_post("/cart", ["bowl"], cookie(guest["token"]))
            assert saved.status == 503
            assert guest_cookies(saved) == []
            wait_until(
                lambda: app.page(cookie(guest["token"])).json()["guest"], what="the guest is read again", within_s=15
            )
            app.post("/cart", ["cup", "bowl"], cookie(guest["token"]))


def test_what_is_no_json_is_the_application_s_fault_and_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES / "middleware/python")
    guests = importlib.import_module("guests")
    sessions = guests.GuestSessions("http://127.0.0.1", issuer=ISSUER)
    with pytest.raises(TypeError):
        asyncio.run(guests.Guest(sessions, "POST", {}, "").save({"seen": object()}))
    assert not sessions.away


def test_a_page_that_sets_a_guest_s_cookie_stays_out_of_django_s_cache(tmp_path: Path) -> None:
    with guest_service(tmp_path) as service, application("django", service, tmp_path) as app:
        assert app.page(NAVIGATION).all("Cache-Control") == ["private"]


def test_what_answers_before_aiohttp_s_middleware_needs_no_guest(tmp_path: Path) -> None:
    closed = "@web.middleware\nasync def closed(request, handler):\n    raise web.HTTPFound('/closed')\n\n\n"
    application_of = "app = web.Application("
    copy = changed_example(
        "aiohttp", tmp_path, old=f"{application_of})", new=f"{closed}{application_of}middlewares=[closed])"
    )
    with guest_service(tmp_path) as service, application("aiohttp", service, tmp_path, examples=copy) as app:
        assert send(app.port, "/").status == 302


def test_starlette_s_middleware_outlives_its_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under its `TestClient`, which makes one for each request."""
    monkeypatch.syspath_prepend(EXAMPLES / "middleware/python")
    with guest_service(tmp_path) as service:
        monkeypatch.setenv("GUEST_URL", f"http://{service.address}")
        monkeypatch.setenv("GUEST_ISSUER", ISSUER)
        example = importlib.import_module("app_starlette")
        httpx = importlib.import_module("httpx")

        async def page() -> Any:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(example.app), base_url="http://shop") as client:
                return await client.get("/", headers=dict(NAVIGATION))

        assert all("Set-Cookie" in asyncio.run(page()).headers for _ in range(2))
