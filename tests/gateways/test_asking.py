"""What the gateways that ask /v1/auth pass on to it of a visitor's request."""

from pathlib import Path

import pytest

from tests.gateways.echo import Echo, echo
from tests.gateways.gateways import ASKING, Site
from tests.gateways.guest_service import COOKIE, GuestService
from tests.gateways.processes import send

QUESTION = {
    "cookie": f"{COOKIE}=token",
    "authorization": "Bearer token",
    "sec-fetch-mode": "navigate",
    "sec-fetch-dest": "document",
    "sec-fetch-site": "cross-site",
    "sec-purpose": "prefetch",
    "purpose": "prefetch",
}


def asked(service: Echo, mode: str) -> dict[str, str]:
    """The headers of the only question, which must have been asked in `mode`."""
    [question] = service.seen
    assert question["path"].startswith(f"/v1/auth?mode={mode}")
    service.seen.clear()
    return dict(question["headers"])


@pytest.mark.parametrize("name", ASKING)
def test_the_service_gets_all_that_it_judges_by(name: str, tmp_path: Path) -> None:
    with (
        echo() as service,
        echo() as app,
        ASKING[name](Site(GuestService(service.port, {}), app.port, tmp_path)) as running,
    ):
        service.seen.clear()
        send(running.port, "/", headers=list(QUESTION.items()))
        received = asked(service, "ensure")
        assert {header: received.get(header) for header in QUESTION} == QUESTION
        send(running.port, "/account", headers=list(QUESTION.items()))
        assert asked(service, "verify")["cookie"] == QUESTION["cookie"]
