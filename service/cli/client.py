"""The API as the command line calls it: over HTTP, of a running service or of one made for the call.

A local call goes through the very same server, on a free loopback port for as long as the call takes, so that the
command line can never say anything else than the API. What is at a given address may be anything: an answer is taken
only once it was found to be one of this API.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
import msgspec
from aiohttp import web

from service.app import KEYS, make_app, make_key_operations, make_runner, reading_keys
from service.config import Settings
from service.errors import Fault, GuestSessionsError, NotReady
from service.http import schemas
from service.http.auth import ApiKeyPolicy
from service.keys.manager import KeyManager

T = TypeVar("T")


class CallFailed(GuestSessionsError):
    """The API refused a call, or did not answer; `reason` and `errors` are those of its problem document."""

    code = "call_failed"

    def __init__(self, detail: str, *, reason: str | None = None, errors: tuple[Fault, ...] = ()) -> None:
        super().__init__(detail)
        self.reason = reason
        self.errors = errors


class _Problem(msgspec.Struct, frozen=True):
    """What the command line tells of a problem document (RFC 9457)."""

    detail: str
    reason: str | None = None
    errors: tuple[Fault, ...] = ()


class _Issued(msgspec.Struct, frozen=True):
    """What the command line takes from a token object; here and below, further members pass unseen."""

    token: str


class _Verdict(msgspec.Struct, frozen=True):
    active: bool


class _Good(msgspec.Struct, frozen=True):
    subject: str
    version: int
    token_id: str
    key_id: str
    issued_at: int
    first_issued_at: int
    expires_at: int
    expires_in: int
    payload: dict[str, Any]
    claims: dict[str, Any]
    refresh_due: bool


class _Bad(msgspec.Struct, frozen=True):
    reason: str


class ApiClient:
    """Calls one service."""

    def __init__(self, base_url: str, *, api_key: str | None) -> None:
        self.base_url = base_url.rstrip("/")
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}

    async def issue(self, body: dict[str, Any]) -> dict[str, Any]:
        """The token object of `POST /v1/issue`.

        Raises:
            CallFailed: no answer, a problem, or an answer of something else.
        """
        answer = await self._post("/v1/issue", body)
        self._check(answer, _Issued)
        return answer

    async def verify(self, token: str, **members: Any) -> dict[str, Any]:
        """The verdict of `POST /v1/verify`; raises as `issue`."""
        answer = await self._post("/v1/verify", {"token": token, **members})
        self._check(answer, _Good if self._check(answer, _Verdict).active else _Bad)
        return answer

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=10)
        try:
            async with (
                aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session,
                session.post(self.base_url + path, json=body) as response,
            ):
                raw, status = await response.read(), response.status
        except ValueError as error:
            raise CallFailed(f"{self.base_url} cannot be called: is it a URL, and the API key plain text?") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise CallFailed(f"{self.base_url} does not answer.") from error
        try:
            document = schemas.decode_object(raw)
        except GuestSessionsError as error:
            raise self._something_else() from error
        if status >= 400:  # noqa: PLR2004 - RFC 9110, section 15
            problem = self._check(document, _Problem)
            raise CallFailed(problem.detail, reason=problem.reason, errors=problem.errors)
        return document

    def _check(self, document: dict[str, Any], shape: type[T]) -> T:
        try:
            return msgspec.convert(document, shape)
        except msgspec.ValidationError as error:
            raise self._something_else() from error

    def _something_else(self) -> CallFailed:
        return CallFailed(f"{self.base_url} does not answer as a guest-sessions service.")


@asynccontextmanager
async def signing_api(settings: Settings) -> AsyncIterator[ApiClient]:
    """A service over the local keyring, for the call alone; makes the keyring if there is none, as any first start.

    Raises:
        NotReady: there is no key to sign with; the message says why.
    """
    async with _local_api(settings, None) as api:
        yield api


@asynccontextmanager
async def verifying_api(settings: Settings) -> AsyncIterator[ApiClient]:
    """A service that holds the local keyring as it is, for the call alone; never makes, moves or writes one.

    Raises:
        KeyringError: there is no keyring, or it cannot be read.
    """
    ring = await make_key_operations(settings).ring()
    async with _local_api(settings, reading_keys(settings, ring)) as api:
        yield api


@asynccontextmanager
async def _local_api(settings: Settings, keys: KeyManager | None) -> AsyncIterator[ApiClient]:
    api_key = secrets.token_urlsafe(32)  # of this call alone: nobody else on this machine may use the port meanwhile
    access = ApiKeyPolicy(api_keys=(api_key,), api_keys_file=None, allowed_origins=frozenset())
    app = make_app(msgspec.structs.replace(settings, access=access), keys=keys)
    runner = make_runner(app)
    await runner.setup()
    try:
        if app[KEYS].loaded is None:
            raise NotReady(app[KEYS].status().problem or "There is no signing key yet.")
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield ApiClient(f"http://127.0.0.1:{runner.addresses[0][1]}", api_key=api_key)
    finally:
        await runner.cleanup()


async def is_ready(url: str) -> bool:
    """Whether `url` answers 200 within two seconds."""
    try:
        async with (
            asyncio.timeout(2),
            aiohttp.ClientSession() as session,
            session.get(url, allow_redirects=False) as response,
        ):
            return response.status == 200  # noqa: PLR2004 - RFC 9110, section 15.3.1
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return False
