"""The API as the command line uses it: that of a running service over HTTP, or its use cases over the local keyring.

Both take the requests and return the responses of the API, so that a command does the same with either. Anything may
listen at a given address: a response is taken only once it was checked to be one of this API.
"""

import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import msgspec

from service.app import make_key_operations, make_keys, make_tokens
from service.cli import output
from service.config import Settings
from service.errors import Fault, GuestSessionsError, InvalidToken, NotReady
from service.http import schemas
from service.http.cookies import GuestCookie
from service.http.problems import HttpProblem
from service.keys.file_store import FILE_NAME
from service.keys.held import LoadedRing, load
from service.keys.signer import MAX_TOKEN_BYTES
from service.merge.fold import AppliedChange
from service.merge.handover import MergedGuest
from service.merge.policy import Policy
from service.merge.policy_parser import compile_policy
from service.merge.service import MergeService
from service.tokens.service import TokenService

TIMEOUT_S: Final = 10


class CallFailed(HttpProblem):
    """A service refused a call or could not be called; the code and the facts are those of its problem.

    Two codes are the command line's own: `invalid_url` for what is no address, `call_failed` for what is no service.
    """


class LocalApi:
    """The use cases over the keys of this machine."""

    def __init__(self, settings: Settings, tokens: TokenService) -> None:
        self._settings = settings
        self._tokens = tokens
        self._cookie = GuestCookie(settings.cookie)

    async def issue(self, asked: schemas.IssueRequest) -> dict[str, Any]:
        """As `POST /v1/issue`."""
        token = await self._tokens.issue(
            payload=asked.payload,
            extra_claims=asked.claims,
            subject=asked.subject or None,
            ttl_s=asked.ttl or None,
            audience=schemas.audience_list(asked.audience),
        )
        return schemas.token_object(token, self._cookie)

    async def verify(self, asked: schemas.VerifyRequest) -> dict[str, Any]:
        """As `POST /v1/verify`."""
        try:
            token = await self._tokens.verify(asked.token, audience=schemas.audience_list(asked.audience))
        except InvalidToken as error:
            return {"active": False, "reason": error.reason}
        return schemas.verified_object(token, self._cookie, now_s=time.time())

    async def merge(self, asked: schemas.MergeRequest) -> tuple[dict[str, Any], Sequence[AppliedChange]]:
        """As `POST /v1/merge` with `dry_run`."""
        policies = self._settings.merge_policies
        policy: Policy = policies[asked.policy] if isinstance(asked.policy, str) else compile_policy(asked.policy)
        merged = await MergeService(self._tokens).merge(
            asked.tokens, session=asked.session or {}, policy=policy, strict=asked.strict, renew=False
        )
        return schemas.merged_object(merged, None), merged.result.changes


class ReadKeys(msgspec.Struct, frozen=True):
    """The keys as they were when they were read."""

    loaded: LoadedRing


async def local_api(settings: Settings, *, signs: bool) -> LocalApi:
    """The local API. One that signs makes the keyring if there is none; one that does not never makes or writes one.

    Raises:
        NotReady: there is no key to sign with; the message says why.
        KeyringError: there is no keyring, or it cannot be read.
    """
    if signs and settings.keys_dir is not None and not (settings.keys_dir / FILE_NAME).exists():
        keys = make_keys(settings)
        await keys.start()
        await keys.stop()
        if keys.loaded is None:
            raise NotReady(keys.status().problem or "There is no signing key yet.")
        output.note(f"There was no keyring in {settings.keys_dir}: a new one was made, which no other service knows.")
        return LocalApi(settings, make_tokens(settings, keys))
    # A ring that is there is only read: a shell's settings, which may not be the service's, must not move it on.
    ring = await make_key_operations(settings).ring()
    return LocalApi(settings, make_tokens(settings, ReadKeys(load(ring, settings.keys, now_s=time.time()))))


class _Problem(msgspec.Struct, frozen=True):
    """The members of a problem document (RFC 9457) that are shown; here and below, others are ignored."""

    detail: str
    code: str = "call_failed"
    reason: str | None = None
    index: int | None = None
    errors: tuple[Fault, ...] = ()


class _Issued(msgspec.Struct, frozen=True):
    token: str


class _Good(msgspec.Struct, frozen=True):
    subject: str
    version: int
    key_id: str
    expires_in: int
    refresh_due: bool


class _Bad(msgspec.Struct, frozen=True):
    active: bool
    reason: str


class _Skipped(msgspec.Struct, frozen=True):
    index: int
    reason: str


class _Conflict(msgspec.Struct, frozen=True):
    path: str
    kept: str
    rule: str
    subject: str


class _Merged(msgspec.Struct, frozen=True):
    payload: dict[str, Any]
    guests: list[MergedGuest]
    skipped: list[_Skipped]
    conflicts: list[_Conflict]


class RemoteApi:
    """The API of a running service."""

    def __init__(self, url: str, *, api_key: str | None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"

    async def issue(self, asked: schemas.IssueRequest) -> dict[str, Any]:
        """`POST /v1/issue`."""
        return await self._post("/v1/issue", asked, lambda _: _Issued)

    async def verify(self, asked: schemas.VerifyRequest) -> dict[str, Any]:
        """`POST /v1/verify`; a token too long for a request of the service's is `too_large` as any other."""
        if len(asked.token) > MAX_TOKEN_BYTES:
            return {"active": False, "reason": "too_large"}
        return await self._post("/v1/verify", asked, lambda verdict: _Good if verdict.get("active") is True else _Bad)

    async def merge(self, asked: schemas.MergeRequest) -> tuple[dict[str, Any], Sequence[AppliedChange]]:
        """`POST /v1/merge` with `dry_run`."""
        return await self._post("/v1/merge", msgspec.structs.replace(asked, dry_run=True), lambda _: _Merged), ()

    async def _post(
        self, path: str, asked: schemas.Request, shape_of: Callable[[dict[str, Any]], type[msgspec.Struct]]
    ) -> dict[str, Any]:
        """The response, checked to have the shape that `shape_of` says for it."""
        url, sent = self._url, {"data": msgspec.json.encode(asked), "headers": self._headers}
        async with request("POST", url + path, base=url, timeout_s=TIMEOUT_S, **sent) as response:
            raw, status = await response.read(), response.status
            location, content_type = response.headers.get("Location"), response.content_type
        if location is not None:
            raise CallFailed("call_failed", f"{url} redirects to {location.removesuffix(path)}: call that address.")
        try:
            document = schemas.decode_object(raw)
            is_problem = status >= 400  # noqa: PLR2004 - RFC 9110, section 15
            checked = msgspec.convert(document, _Problem if is_problem else shape_of(document))
        except (GuestSessionsError, msgspec.ValidationError) as error:
            detail = (
                f"{url} responds with status {status} and {content_type}, but not as a guest-sessions service. "
                "Its address has no path such as /v1, and is most often that of GUEST_ISSUER."
            )
            raise CallFailed("call_failed", detail) from error
        if isinstance(checked, _Problem):
            raise CallFailed(checked.code, checked.detail, facts=document)
        return document


Api = LocalApi | RemoteApi
"""What the commands call. Requests and responses are the API's; a refusal is a `GuestSessionsError`."""


@asynccontextmanager
async def request(
    method: str, url: str, *, base: str, timeout_s: float, **options: Any
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The response to one request, with the options of `aiohttp.request`. A redirect is not followed.

    Raises:
        CallFailed: with what is wrong with the address `base`, or with what listens there.
    """
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with aiohttp.request(method, url, timeout=timeout, allow_redirects=False, **options) as response:
            yield response
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        code = "call_failed"
        match error:
            case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError() | ValueError():
                code = "invalid_url"
                detail = "is not an address: it must begin with http:// or https:// and name a host."
            case aiohttp.ClientConnectorDNSError():
                detail = f"cannot be called: there is no host {error.host}."
            case aiohttp.ClientConnectorCertificateError() | ssl.SSLError() | aiohttp.ClientSSLError():
                detail = "cannot be called by TLS: the certificate is not trusted, or it is an http:// address."
            case aiohttp.ClientConnectorError():
                where = f"{error.host}:{error.port}"
                detail = f"cannot be called: nothing listens on {where} ({error.os_error.strerror})."
            case TimeoutError():
                detail = f"did not respond within {timeout_s} s."
            case _:
                detail = "does not respond as an HTTP service."
        raise CallFailed(code, f"{base} {detail}") from error


async def is_ready(url: str) -> bool:
    """Whether `url` responds with 200 within two seconds."""
    try:
        async with request("GET", url, base=url, timeout_s=2) as response:
            return response.status == 200  # noqa: PLR2004 - RFC 9110, section 15.3.1
    except CallFailed:
        return False
