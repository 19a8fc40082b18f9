"""CORS preflights with the examples' option: they reach the application without an identity, and nothing else does."""

from collections.abc import Iterator

import pytest

from tests.gateways.conftest import Gateway
from tests.gateways.echo import echo
from tests.gateways.gateways import ASKING, OFFLINE, Site
from tests.gateways.guest_service import guest_service
from tests.gateways.processes import send
from tests.gateways.test_ensuring import guest_cookies
from tests.gateways.test_guarding import ALIASES, FORGED, PREFLIGHT, Headers, cookie, identity, named


@pytest.fixture(scope="module", params=[*OFFLINE, *ASKING])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Every gateway, with the lines that begin with `#cors ` un-commented."""
    folder = tmp_path_factory.mktemp("gateway")
    with guest_service(folder, GUEST_AUTH_HEADERS="payload,token") as service, echo() as app:
        site = Site(service, app.port, folder, options=("cors",))
        with (OFFLINE | ASKING)[request.param](site) as running:
            yield Gateway(request.param, running, app, site)


@pytest.mark.parametrize("path", ["/account", "/account/orders?x=1", "/Account", "/"])
def test_a_preflight_reaches_the_application_without_identity(gateway: Gateway, path: str) -> None:
    visitor = cookie(gateway.service.issue()["token"])
    for headers in ([], FORGED, ALIASES, visitor):
        answer = send(gateway.port, path, method="OPTIONS", headers=[*PREFLIGHT, *headers])
        assert answer.status == 200
        assert (answer.json()["method"], answer.json()["path"]) == ("OPTIONS", path)
        assert "mallory" not in [value for _, value in identity(answer)]
        assert guest_cookies(answer) == []
    assert identity(send(gateway.port, path, method="OPTIONS", headers=PREFLIGHT)) == []


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        pytest.param("GET", [], id="a request without a token"),
        pytest.param("GET", PREFLIGHT, id="a GET that names a method"),
        pytest.param("POST", PREFLIGHT, id="a POST that names a method"),
        pytest.param("OPTIONS", [("Origin", "https://app.shop.example")], id="an OPTIONS that names no method"),
    ],
)
def test_every_other_request_stays_guarded(gateway: Gateway, method: str, headers: Headers) -> None:
    reached = len(gateway.app.seen)
    assert send(gateway.port, "/account", method=method, headers=[*FORGED, *headers]).status == 401
    assert len(gateway.app.seen) == reached


def test_a_guest_still_passes(gateway: Gateway) -> None:
    guest = gateway.service.issue()
    answer = send(gateway.port, "/account", method="POST", headers=cookie(guest["token"]), body=b"x=1")
    assert answer.status == 200
    assert named("x-guest-id", identity(answer)) == [guest["subject"]]
