"""The rate limit for one client address, which the real gateways send in X-Forwarded-For."""

from pathlib import Path

import pytest

from tests.gateways.echo import echo
from tests.gateways.gateways import ASKING, Site
from tests.gateways.guest_service import guest_service
from tests.gateways.processes import send
from tests.gateways.test_ensuring import NAVIGATION, guest_cookies

VISITOR, OTHER_VISITOR = "127.0.0.2", "127.0.0.3"


@pytest.mark.parametrize("name", ASKING)
def test_a_visitor_who_invents_addresses_stays_within_the_limit(name: str, tmp_path: Path) -> None:
    # One guest in a thousand seconds for each address: no test is slow enough for a second one.
    limit = {"GUEST_RATE_LIMIT": "0.001", "GUEST_TRUSTED_PROXIES": "127.0.0.1/32"}
    with (
        guest_service(tmp_path, **limit) as service,
        echo() as app,
        ASKING[name](Site(service, app.port, tmp_path)) as running,
    ):
        new = []
        for invented in ("10.0.0.1", "10.0.0.2, 10.0.0.3", "127.0.0.1", "[::1]:80", "not an address", ""):
            claims = [("X-Forwarded-For", invented), ("X-Real-IP", invented), ("Forwarded", "for=1.1.1.1")]
            answer = send(running.port, "/", headers=[*NAVIGATION, *claims], source=VISITOR)
            assert answer.status == 200
            new.append(len(guest_cookies(answer)))
        assert new == [1, 0, 0, 0, 0, 0]
        assert len(guest_cookies(send(running.port, "/", headers=NAVIGATION, source=OTHER_VISITOR))) == 1
