"""`POST /v1/token` through off-the-shelf OAuth clients, which know nothing but the issuer's discovery document."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.guest_service import GuestService, guest_service

HERE = Path(__file__).parent
API_KEY = "as+openssl/makes:it%of+base64=="
"""With what a client must encode for HTTP Basic authentication."""

EXPECTED: dict[str, Any] = {
    "token_type": "bearer",
    "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
    "expires_in": 300,
    "typ": "at+jwt",
    "payload": {"cart": [{"sku": "tea", "quantity": 2}]},
    "errors": {
        "an access token for a guest token": "invalid_request",
        "no audience": "invalid_target",
        "another scope": "invalid_scope",
        "a wrong secret": "invalid_client",
    },
}
"""What every client reports of its exchange and its offline verification, beside the guest's id."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuestService]:
    folder = tmp_path_factory.mktemp("service")
    # Without GUEST_ISSUER the issuer is where the service listens, so that discovery finds it.
    with guest_service(folder, GUEST_ISSUER="", GUEST_API_KEYS=API_KEY) as running:
        yield running


@pytest.mark.parametrize("client", ["authlib", "oauth4webapi", "go"])
def test_a_client_exchanges_and_verifies_by_discovery(client: str, service: GuestService) -> None:
    guest = service.issue(payload=EXPECTED["payload"])
    if client == "authlib":
        command, folder = [sys.executable, "exchange.py"], HERE
    elif client == "oauth4webapi":
        command, folder = ["node", "exchange.mjs"], HERE
        if not (HERE / "node_modules/.made").exists():
            pytest.skip("not installed: npm")
    else:
        command, folder = ["go", "run", "."], HERE / "go"
    if shutil.which(command[0]) is None:
        pytest.skip(f"not installed: {command[0]}")
    given = {"ISSUER": f"http://{service.address}", "CLIENT_SECRET": API_KEY, "GUEST_TOKEN": guest["token"]}

    done = subprocess.run(  # noqa: S603  # our own programs
        command, cwd=folder, env=os.environ | given, capture_output=True, text=True, timeout=300, check=False
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {**EXPECTED, "subject": guest["subject"]}
