from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.gateways.chromium import chromium
from tests.gateways.echo import Echo, echo
from tests.gateways.gateways import ASKING, OFFLINE, Running, Site
from tests.gateways.guest_service import GuestService, guest_service


@dataclass(frozen=True)
class Gateway:
    """A running gateway with what stands behind it."""

    name: str
    running: Running
    app: Echo
    site: Site

    @property
    def port(self) -> int:
        return self.running.port

    @property
    def service(self) -> GuestService:
        return self.site.service


def _start(name: str, folder: Path) -> Iterator[Gateway]:
    # A key is published for twice the JWKS max-age before it signs; HAProxy has to be given it by hand in that time.
    max_age_s = "5" if name == "haproxy" else "1"
    with (
        guest_service(folder, GUEST_JWKS_MAX_AGE=max_age_s, GUEST_AUTH_HEADERS="payload,token") as service,
        echo() as app,
    ):
        site = Site(service, app.port, folder)
        with (OFFLINE | ASKING)[name](site) as running:
            yield Gateway(name, running, app, site)


@pytest.fixture(scope="module", params=[*OFFLINE, *ASKING])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Every gateway: /account is guarded."""
    yield from _start(request.param, tmp_path_factory.mktemp("gateway"))


@pytest.fixture(scope="module", params=[*ASKING])
def asking_gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Those that ensure a guest outside /account."""
    yield from _start(request.param, tmp_path_factory.mktemp("gateway"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real Chromium, with no cookie of anybody in a context of its own."""
    with chromium() as started:
        yield started
