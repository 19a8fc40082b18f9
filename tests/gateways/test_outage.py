"""What the gateways that ask /v1/auth do while guest-sessions is gone."""

import contextlib
from pathlib import Path

import pytest

from tests.gateways.echo import echo
from tests.gateways.front import front
from tests.gateways.gateways import ASKING, Site
from tests.gateways.guest_service import GuestService, guest_service
from tests.gateways.processes import send
from tests.gateways.test_ensuring import NAVIGATION
from tests.gateways.test_guarding import ALIASES, FORGED, cookie, identity

GO_ON = {"envoy ext_authz", "envoy gateway extAuth", "nginx"}


@pytest.mark.parametrize("name", ASKING)
def test_nobody_passes_the_guard_and_no_identity_of_the_client_gets_through(name: str, tmp_path: Path) -> None:
    forged = [*FORGED, *ALIASES]
    with contextlib.ExitStack() as life, echo() as app:
        service = life.enter_context(guest_service(tmp_path))
        with ASKING[name](Site(service, app.port, tmp_path)) as running:
            token = service.issue()["token"]
            assert send(running.port, "/account", headers=cookie(token)).status == 200
            life.close()
            reached = len(app.seen)
            assert send(running.port, "/account", headers=[*forged, *cookie(token)]).status in {403, 500, 502}
            assert len(app.seen) == reached
            page = send(running.port, "/", headers=[*NAVIGATION, *forged, *cookie(token)])
            assert (page.status == 200) is (name in GO_ON)
            if name in GO_ON:
                assert identity(page) == []
            assert [each for each in page.all("Set-Cookie") if "guest" in each] == []


@pytest.mark.parametrize("name", [each for each in ASKING if each != "traefik"])  # its 30 s are in no setting
def test_a_service_that_hangs_holds_up_nobody_for_good(name: str, tmp_path: Path) -> None:
    with guest_service(tmp_path) as service, front(service) as before, echo() as app:
        hanging = GuestService(before.server_port, service.environment)
        with ASKING[name](Site(hanging, app.port, tmp_path)) as running:
            before.state = "silent"
            reached = len(app.seen)
            assert send(running.port, "/account", headers=cookie(service.issue()["token"])).status in {403, 500, 504}
            assert len(app.seen) == reached
            assert (send(running.port, "/", headers=NAVIGATION).status == 200) is (name in GO_ON)
