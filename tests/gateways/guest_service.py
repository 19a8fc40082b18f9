"""A real guest-sessions process, asked over HTTP and by its command line, and tokens that it never made."""

import base64
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from tests.gateways.processes import HOST, Answer, running, send, wait_until
from tests.ports import free_port

ISSUER = "https://shop.example"
COOKIE = "__Host-guest"
SERVICE = (os.environ.get("GUEST_SERVICE_PYTHON", sys.executable), "-m", "service")


@dataclass(frozen=True)
class GuestService:
    """One running service; `environment` is what its command line needs to find its keyring."""

    port: int
    environment: Mapping[str, str]

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"{HOST}:{self.port}"

    def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """A JSON request to the service itself."""
        headers = [("Content-Type", "application/json"), ("X-API-Key", self.environment.get("GUEST_API_KEYS", ""))]
        return send(self.port, path, method="POST", headers=headers, body=json.dumps(body).encode())

    def issue(self, **members: Any) -> dict[str, Any]:
        """The token object of a new guest."""
        answer = self.post("/v1/issue", members)
        assert answer.status == 201, answer
        token_object: dict[str, Any] = answer.json()
        return token_object

    def expired_token(self) -> str:
        """A token that was good and is no longer."""
        token: str = self.issue(ttl=1)["token"]
        wait_until(
            lambda: self.post("/v1/verify", {"token": token}).json() == {"active": False, "reason": "expired"},
            what="a token with a life of one second has expired",
        )
        return token

    def access_token(self, token: str) -> str:
        """What the guest token is exchanged for, with its payload."""
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token": token,
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "audience": "search",
            "scope": "payload",
        }
        headers = [
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("X-API-Key", self.environment.get("GUEST_API_KEYS", "")),
        ]
        answer = send(self.port, "/v1/token", method="POST", headers=headers, body=urlencode(form).encode())
        assert answer.status == 200, answer
        access_token: str = answer.json()["access_token"]
        return access_token

    def command(self, *arguments: str) -> str:
        """What the command line prints for this service's keyring."""
        done = subprocess.run(  # noqa: S603  (our own command line)
            [*SERVICE, *arguments], env=self.environment, check=True, capture_output=True, text=True, timeout=60
        )
        return done.stdout

    def rotate_now(self) -> None:
        """Retires the active key; returns once the service signs with another one."""
        before = self.issue()["key_id"]
        self.command("keys", "rotate", "--now")
        wait_until(lambda: self.issue()["key_id"] != before, what="the service signs with the next key")


@contextlib.contextmanager
def guest_service(folder: Path, **settings: str) -> Iterator[GuestService]:
    """Starts the service with a keyring of its own in `folder`."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GUEST_")} | {
        "GUEST_PORT": str(port),
        "GUEST_ISSUER": ISSUER,
        "GUEST_KEYS_DIR": str(folder / "keys"),
        **settings,
    }
    with running([*SERVICE, "serve"], port=port, log=folder / "guest-sessions.log", env=environment):
        service = GuestService(port, environment)
        wait_until(lambda: send(port, "/readyz").status == 200, what="the service is ready")
        yield service


def _segment(value: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).rstrip(b"=").decode()


def forgeries(token: str) -> dict[str, str]:
    """What an attacker makes of a good token, by name."""
    header, claims, signature = token.split(".")
    good_header, good_claims = jwt.get_unverified_header(token), jwt.decode(token, options={"verify_signature": False})
    stranger = ec.generate_private_key(ec.SECP256R1())
    return {
        "tampered claims": f"{header}.{_segment(good_claims | {'sub': 'G-somebody-else'})}.{signature}",
        "tampered signature": f"{header}.{claims}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}",
        "alg none": f"{_segment(good_header | {'alg': 'none'})}.{claims}.",
        "alg None with the signature": f"{_segment(good_header | {'alg': 'None'})}.{claims}.{signature}",
        "signed by a stranger": jwt.encode(good_claims, stranger, "ES256", headers=good_header),
        "signed with HS256": jwt.encode(good_claims, "x" * 32, "HS256", headers={**good_header, "alg": "HS256"}),
        "no token at all": "guest",
    }
