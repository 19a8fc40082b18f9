"""The short-lived token that the gateways hand to the application in place of the guest token."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.gateways.conftest import Gateway
from tests.gateways.echo import echo
from tests.gateways.gateways import ASKING, OFFLINE, Site
from tests.gateways.guest_service import ISSUER, GuestService, guest_service
from tests.gateways.processes import send
from tests.gateways.test_ensuring import NAVIGATION, guest_cookies
from tests.gateways.test_guarding import FORGED, Headers, cookie, identity, named

AUDIENCE = "https://orders.example"


@pytest.fixture(scope="module", params=[*ASKING])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    settings = {"GUEST_AUTH_HEADERS": "access", "GUEST_ACCESS_AUDIENCE": AUDIENCE}
    with guest_service(folder, **settings) as service, echo() as app:
        site = Site(service, app.port, folder)
        with ASKING[request.param](site) as running:
            yield Gateway(request.param, running, app, site)


def access_token(service: GuestService) -> str:
    """The access token of a new guest, as the service gives it to a gateway."""
    answer = send(service.port, "/v1/auth", headers=cookie(service.issue()["token"]))
    [access] = answer.all("X-Guest-Access-Token")
    return access


def verified(gateway: Gateway, token: str) -> dict[str, Any]:
    """The claims, checked as an application checks them: by the JWKS, the type and the audience."""
    keys = jwt.PyJWKSet.from_dict(send(gateway.service.port, "/.well-known/jwks.json").json())
    header = jwt.get_unverified_header(token)
    assert header["typ"] == "at+jwt"
    claims: dict[str, Any] = jwt.decode(
        token, keys[header["kid"]], algorithms=["ES256"], audience=AUDIENCE, issuer=ISSUER
    )
    return claims


@pytest.mark.parametrize("path", ["/account", "/"])
def test_the_application_gets_it_and_not_the_guest_token(gateway: Gateway, path: str) -> None:
    guest = gateway.service.issue()
    answer = send(gateway.port, path, headers=[*FORGED, *cookie(guest["token"])])
    [access] = named("x-guest-access-token", identity(answer))
    claims = verified(gateway, access)
    assert claims["sub"] == guest["subject"]
    assert claims["exp"] - claims["iat"] <= 300
    assert guest["token"] not in [value for _, value in identity(answer)]


def test_a_new_guest_has_one_from_the_first_page_on(gateway: Gateway) -> None:
    answer = send(gateway.port, "/", headers=[*FORGED, *NAVIGATION])
    assert len(guest_cookies(answer)) == 1
    [access] = named("x-guest-access-token", identity(answer))
    assert [verified(gateway, access)["sub"]] == named("x-guest-id", identity(answer))


def test_a_visitor_without_a_guest_has_none(gateway: Gateway) -> None:
    assert identity(send(gateway.port, "/", headers=FORGED)) == []


def test_it_is_no_guest_token(gateway: Gateway) -> None:
    for headers in carriers(access_token(gateway.service)):
        assert send(gateway.port, "/account", headers=headers).status == 401


@pytest.mark.parametrize("name", ["envoy jwt_authn", "haproxy", "apache"])
def test_an_offline_gateway_that_demands_an_audience_refuses_it(name: str, tmp_path: Path) -> None:
    settings = {"GUEST_AUDIENCE": "shop", "GUEST_AUTH_HEADERS": "access", "GUEST_ACCESS_AUDIENCE": AUDIENCE}
    with guest_service(tmp_path, **settings) as service, echo() as app:
        access, guest = access_token(service), service.issue()
        with OFFLINE[name](Site(service, app.port, tmp_path, options=("audience",))) as running:
            for headers in carriers(guest["token"]):
                assert send(running.port, "/account", headers=headers).status == 200
            for headers in carriers(access):
                assert send(running.port, "/account", headers=headers).status in {401, 403}


def carriers(token: str) -> list[Headers]:
    return [cookie(token), [("Authorization", f"Bearer {token}")]]
