"""One application with a real service, and a front between them that fails on demand."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from tests.clients.applications import APPLICATIONS
from tests.gateways.front import Front, front
from tests.gateways.guest_service import COOKIE, ISSUER, GuestService
from tests.gateways.processes import Answer, running, send, wait_until
from tests.ports import free_port

Headers = list[tuple[str, str]]
API_KEY = "an-api-key-of-the-example"
KEYS = "/.well-known/jwks.json"
NAVIGATION: Headers = [("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document"), ("Sec-Fetch-Site", "none")]
FETCH: Headers = [("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Dest", "empty"), ("Sec-Fetch-Site", "same-origin")]
CROSS_SITE: Headers = [
    ("Sec-Fetch-Site", "cross-site"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Dest", "document"),
    ("Origin", "https://identity.example"),
]


@dataclass(frozen=True)
class Stage:
    port: int
    service: GuestService
    front: Front
    log_path: Path

    @property
    def log(self) -> str:
        """What the application has printed so far."""
        return self.log_path.read_text(errors="replace")

    def get(self, headers: Headers, path: str = "/") -> Answer:
        answer = send(self.port, path, headers=headers)
        assert answer.status == 200, answer
        return answer

    def guest(self, headers: Headers) -> Any:
        """The guest that the application sees, or None."""
        return self.get(headers).json()["guest"]

    def try_to_post(self, path: str, body: Any, headers: Headers = FETCH) -> Answer:
        lines = [*headers, ("Content-Type", "application/json")]
        return send(self.port, path, method="POST", headers=lines, body=json.dumps(body).encode())

    def post(self, path: str, body: Any, headers: Headers = FETCH) -> Answer:
        answer = self.try_to_post(path, body, headers)
        assert answer.status == 200, answer
        return answer

    def seconds_for(self, headers: Headers) -> float:
        begun = time.monotonic()
        self.get(headers)
        return time.monotonic() - begun

    def new_guest(self, payload: Mapping[str, Any] | None = None) -> str:
        """A guest's token, by the service itself."""
        token: str = self.service.issue(payload=payload or {})["token"]
        return token

    def changed(self, token: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The token object after a change of the guest, by the service itself."""
        answer = self.service.post("/v1/refresh-payload", {"token": token, "payload": payload})
        assert answer.status == 200, answer
        token_object: dict[str, Any] = answer.json()
        return token_object

    def signed(self, token: str, *, typ: str = "guest+jwt", **claims: Any) -> str:
        """The token with other claims, by the service's own key."""
        kid = jwt.get_unverified_header(token)["kid"]
        ring = json.loads(Path(self.service.environment["GUEST_KEYS_DIR"], "keyring.json").read_text())
        [key] = [each for each in ring["keys"] if each["kid"] == kid]
        claims = jwt.decode(token, options={"verify_signature": False}) | claims
        return jwt.encode(claims, jwt.PyJWK(key).key, "ES256", headers={"typ": typ, "kid": kid})

    def warm_up(self) -> None:
        """Returns once the application verifies tokens itself."""
        token = self.new_guest()

        def reads_alone() -> bool:
            asked = len(self.asked())
            return bool(self.guest(cookie(token))) and len(self.asked()) == asked

        wait_until(reads_alone, what="the application has the keys")

    def asked(self) -> list[str]:
        """What the application has asked the service beside the keys."""
        return [path for path in self.front.asked if path != KEYS]

    def reopen(self) -> None:
        """Returns once newcomers get a guest again, and no request from before can fail any more."""
        fails = KEYS in self.front.hanging  # now, which the application notices somewhat later, and asks again
        self.front.state = "open"
        asked = self.front.asked.count(KEYS)
        if fails:
            wait_until(lambda: self.front.asked.count(KEYS) > asked, what="the keys are asked for again")
        wait_until(lambda: guest_cookies(self.get(NAVIGATION)), what="the service is found available again")


@contextlib.contextmanager
def staged(name: str, service: GuestService, folder: Path, *, state: str = "open", **settings: str) -> Iterator[Stage]:
    """Starts the front in its state and the application, before a service that is there."""
    with front(service) as before:
        before.state = state
        with application(name, service, before, folder, **settings) as stage:
            yield stage


@contextlib.contextmanager
def application(name: str, service: GuestService, before: Front, folder: Path, **settings: str) -> Iterator[Stage]:
    """Starts the application alone, before a service that is there."""
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GUEST_")} | {
        "GUEST_URL": before.url,
        "GUEST_ISSUER": ISSUER,
        "GUEST_API_KEY": f"{API_KEY}\n",  # as a file brings it
        **settings,
    }
    log = folder / f"{name}-{port}.log"
    with running([*APPLICATIONS[name].command, str(port)], port=port, log=log, env=environment):
        yield Stage(port, service, before, log)


def cookie(token: str, name: str = COOKIE) -> Headers:
    return [("Cookie", f"theme=dark; {name}={token}; other=1")]


def cookies(*tokens: str, name: str = COOKIE) -> Headers:
    """Several cookies of one name, as different paths and domains set them."""
    return [("Cookie", "; ".join(f"{name}={token}" for token in tokens))]


def bearer(token: str) -> Headers:
    return [("Authorization", f"Bearer {token}")]


def guest_cookies(answer: Answer, name: str = COOKIE) -> list[str]:
    return [line for line in answer.all("Set-Cookie") if line.startswith(f"{name}=")]


def token_in(set_cookie: str) -> str:
    """The cookie's value, without the quotes that some frameworks put around nothing."""
    return set_cookie.partition("=")[2].partition(";")[0].strip('"')


def attributes(set_cookie: str) -> dict[str, str]:
    """The cookie's attributes, names in lower case."""
    pairs = (part.strip().partition("=") for part in set_cookie.split(";")[1:])
    return {name.lower(): value for name, _, value in pairs}


def of_unknown_key(kid: str = "unknown") -> str:
    """A token that looks like a guest's, by a key that nobody has."""
    return jwt.encode({"sub": "x"}, "x" * 32, headers={"typ": "guest+jwt", "kid": kid})
