"""What is measured: each operation's requests, and what a good answer to them looks like.

Tokens are signed here, by the service's own use cases over the same keyring, so that "new" means never seen before.
"""

import itertools
import os
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from service.app import make_keys
from service.config import Settings
from service.tokens.service import SignedToken, TokenService

ISSUER: Final = "http://127.0.0.1"
SEEN_TOKENS: Final = 64
"""Twice the connections, so that no token is always asked for by the same one."""
PAYLOAD: Final = {"cart": [{"sku": "tea-042", "qty": 2}], "lang": "de", "currency": "EUR", "seen": [7, 123]}
"""80 bytes of JSON."""
CHANGED: Final = {**PAYLOAD, "currency": "CHF"}


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table; `floor` and `aim` are ratios to the constant handler."""

    name: str
    label: str
    method: str
    path: str
    needs_new_tokens: bool = False
    floor: float | None = None
    aim: float | None = None
    peer: bool = True
    expects: bytes = b""
    """What every good answer of the service and its peer contains."""


OPERATIONS: Final = (
    Operation(
        name="issue",
        label="issue, 80-byte payload",
        method="POST",
        path="/v1/issue",
        floor=0.50,
        aim=0.55,
        expects=b'"token":"ey',
    ),
    Operation(
        name="refresh",
        label="refresh, distinct tokens",
        method="POST",
        path="/v1/refresh-payload",
        needs_new_tokens=True,
        floor=0.23,
        aim=0.28,
        expects=b'"token":"ey',
    ),
    Operation(
        name="refresh_raced",
        label="refresh, raced: four of one token",
        method="POST",
        path="/v1/refresh-payload",
        needs_new_tokens=True,
        peer=False,
        expects=b'"token":"ey',
    ),
    Operation(
        name="verify_new",
        label="verify, every token new",
        method="POST",
        path="/v1/verify",
        needs_new_tokens=True,
        floor=0.30,
        aim=0.34,
        expects=b'"active":true',
    ),
    Operation(
        name="verify_seen",
        label="verify, tokens seen before",
        method="POST",
        path="/v1/verify",
        floor=0.85,
        aim=0.95,
        expects=b'"active":true',
    ),
    Operation(
        name="auth_seen",
        label="/v1/auth, cookie seen before",
        method="GET",
        path="/v1/auth",
        floor=0.75,
        aim=0.85,
    ),
    Operation(
        name="jwks",
        label="JWKS",
        method="GET",
        path="/.well-known/jwks.json",
        floor=1.00,
        aim=1.10,
        expects=b'"keys":[',
    ),
    Operation(
        name="merge",
        label="merge, 3 KB into 3 KB, ten rules",
        method="POST",
        path="/v1/merge",
        peer=False,
        expects=b'"merged":true',
    ),
)


class Requests:
    """Makes the requests of an operation, as the bytes that go over the wire."""

    def __init__(self, tokens: TokenService) -> None:
        self._tokens = tokens
        self._seen = [self._token() for _ in range(SEEN_TOKENS)]
        self._big = [self._token(_big_payload(guest)) for guest in range(SEEN_TOKENS)]

    def _token(self, payload: dict[str, Any] | None = None) -> str:
        return _completed(self._tokens.issue(payload=payload or PAYLOAD)).raw_token

    def of(self, operation: Operation, *, count: int) -> Iterator[bytes]:
        """`count` requests with tokens of their own, or, where tokens may come again, an endless round of a few."""
        path = operation.path
        match operation.name:
            case "issue":
                made: Iterator[bytes] = itertools.repeat(_post(path, {"payload": PAYLOAD}))
            case "refresh":
                made = (_post(path, {"token": self._token(), "payload": CHANGED}) for _ in range(count))
            case "refresh_raced":
                made = self._raced(path, count)
            case "verify_new":
                made = (_post(path, {"token": self._token()}) for _ in range(count))
            case "verify_seen":
                made = itertools.cycle([_post(path, {"token": token}) for token in self._seen])
            case "auth_seen":
                made = itertools.cycle([_get(path, f"Cookie: lang=de; guest={token}\r\n") for token in self._seen])
            case "merge":
                made = itertools.cycle([_post(path, _merge(token)) for token in self._big])
            case _:
                made = itertools.repeat(_get(path))
        return made

    def _raced(self, path: str, count: int) -> Iterator[bytes]:
        for first in range(0, count, RACED):
            token = self._token()
            for number in range(first, min(first + RACED, count)):
                changed = {**PAYLOAD, "seen": [*PAYLOAD["seen"], number]}
                yield _post(path, {"token": token, "payload": changed})


RACED: Final = 4
"""Changes to one state, of which all but the first are merged onto those before."""


def _completed(work: Coroutine[None, None, SignedToken]) -> SignedToken:
    """The result of a coroutine that yields to others, but waits for nothing."""
    while True:
        try:
            work.send(None)
        except StopIteration as done:
            result: SignedToken = done.value
            return result


async def load_tokens(variables: dict[str, str]) -> TokenService:
    """The service's own use cases over the keyring in `GUEST_KEYS_DIR`, made here where there is none yet."""
    settings = Settings.from_mapping(variables)
    keys = make_keys(settings)
    await keys.start()
    return TokenService(
        settings.tokens, keys=keys, clock=time.time, random_bytes=os.urandom, observe=lambda _event: None
    )


def service_variables(*, port: int, keys_dir: Path) -> dict[str, str]:
    """The settings of the service that is measured."""
    return {
        "GUEST_PORT": str(port),
        "GUEST_ISSUER": ISSUER,
        "GUEST_KEYS_DIR": str(keys_dir),
        "GUEST_LOG_LEVEL": "warning",
        "GUEST_MAX_TOKEN_BYTES": "16384",
    }


def _post(path: str, body: object) -> bytes:
    content = msgspec.json.encode(body)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def _get(path: str, header: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{header}\r\n".encode()


_RULES: Final = {
    "/cart": {"rule": "by_key", "key": "sku", "fields": {"/qty": {"rule": "sum", "ceiling": 99}}},
    "/favourites": {"rule": "union", "limit": 100},
    "/viewed": {"rule": "append", "limit": 50, "keep": "last"},
    "/consent": "guest",
    "/preferences": "deep",
    "/preferences/theme": "session",
    "/visits": "sum",
    "/last_seen": "max",
    "/first_seen": "min",
    "/scratch": "drop",
}


def _big_payload(guest: int) -> dict[str, Any]:
    """About 3 KB of JSON."""
    return {
        "cart": [{"sku": f"sku-{guest + each:05}", "qty": 1 + each % 3, "name": "A cup of tea"} for each in range(22)],
        "favourites": [f"product-{guest + each:05}" for each in range(40)],
        "viewed": [f"page-{guest + each:05}" for each in range(40)],
        "consent": {"analytics": True, "marketing": False},
        "preferences": {"lang": "de", "currency": "EUR", "theme": "dark"},
        "visits": 3,
        "last_seen": 1_700_000_000 + guest,
        "first_seen": 1_600_000_000 + guest,
        "scratch": "x" * 40,
    }


def _merge(token: str) -> dict[str, Any]:
    session = _big_payload(SEEN_TOKENS // 2)
    return {"tokens": [token], "session": session, "policy": {"rules": _RULES}, "renew": False}
