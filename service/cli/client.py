"""The API as the command line uses it: that of a running service over HTTP, or its use cases over the local keyring.

Both take the requests and return the responses of the API, so that a command does the same with either. Anything may
listen at a given address: a response is taken only once it was checked to be one of this API.
"""

import ssl
import time
from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeVar

import aiohttp
import msgspec

from service.app import make_key_operations, make_keys, make_tokens
from service.cli import output
from service.config import Settings
from service.errors import Fault, GuestSessionsError, InvalidToken, NotReady
from service.http import schemas
from service.http.cookies import GuestCookie
from service.keys.file_store import FILE_NAME
from service.keys.held import LoadedRing, load
from service.keys.signer import MAX_TOKEN_BYTES
from service.merge.fold import AppliedChange
from service.merge.handover import MergedGuest
from service.merge.policy import Policy
from service.merge.policy_parser import compile_policy
from service.merge.service import MergeService
from service.tokens.service import TokenService

T = TypeVar("T")

TIMEOUT_S: Final = 10


class CallFailed(GuestSessionsError):
    """A service refused a call or could not be called; the members are those of its problem."""

    code = "call_failed"

    def __init__(
        self,
        detail: str,
        *,
        code: str = code,
        reason: str | None = None,
        index: int | None = None,
        errors: tuple[Fault, ...] = (),
    ) -> None:
        super().__init__(detail)
        self.code = code  # type: ignore[misc]  # of this call alone
        self.reason = reason
        self.index = index
        self.errors = errors


class Api(Protocol):
    """What the commands call. Responses are documents of the API.

    Raises:
        GuestSessionsError: the request is refused.
    """

    async def issue(self, asked: schemas.IssueRequest) -> dict[str, Any]:
        """The token object."""

    async def verify(self, asked: schemas.VerifyRequest) -> dict[str, Any]:
        """The verdict."""

    async def merge(self, asked: schemas.MergeRequest) -> tuple[dict[str, Any], Sequence[AppliedChange]]:
        """The response, with nothing signed, and the changes that led to it where they are known."""


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
        bytes_left = self._cookie.bytes_left(len(token.raw_token), max_age_s=token.claims.lifetime_s)
        return schemas.token_object(token, cookie_bytes_left=bytes_left)

    async def verify(self, asked: schemas.VerifyRequest) -> dict[str, Any]:
        """As `POST /v1/verify`."""
        try:
            token = await self._tokens.verify(asked.token, audience=schemas.audience_list(asked.audience))
        except InvalidToken as error:
            return {"active": False, "reason": error.reason}
        expires_in_s = token.claims.expires_at_s - int(time.time())
        bytes_left = self._cookie.bytes_left(token.size_bytes, max_age_s=expires_in_s)
        return schemas.verified_object(token, expires_in_s=expires_in_s, cookie_bytes_left=bytes_left)

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


class _Verdict(msgspec.Struct, frozen=True):
    active: bool


class _Good(msgspec.Struct, frozen=True):
    subject: str
    version: int
    key_id: str
    expires_in: int
    refresh_due: bool


class _Bad(msgspec.Struct, frozen=True):
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
        response = await self._post("/v1/issue", asked)
        self._check(response, _Issued)
        return response

    async def verify(self, asked: schemas.VerifyRequest) -> dict[str, Any]:
        """`POST /v1/verify`; a token too long for a request of the service's is `too_large` as any other."""
        if len(asked.token) > MAX_TOKEN_BYTES:
            return {"active": False, "reason": "too_large"}
        response = await self._post("/v1/verify", asked)
        self._check(response, _Good if self._check(response, _Verdict).active else _Bad)
        return response

    async def merge(self, asked: schemas.MergeRequest) -> tuple[dict[str, Any], Sequence[AppliedChange]]:
        """`POST /v1/merge` with `dry_run`."""
        response = await self._post("/v1/merge", msgspec.structs.replace(asked, dry_run=True))
        self._check(response, _Merged)
        return response, ()

    async def _post(self, path: str, asked: schemas.Request) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session,
                session.post(self._url + path, data=msgspec.json.encode(asked), allow_redirects=False) as response,
            ):
                raw, status = await response.read(), response.status
                location, content_type = response.headers.get("Location"), response.content_type
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise CallFailed(failure_of(error, self._url)) from error
        if location is not None:
            raise CallFailed(f"{self._url} redirects to {location.removesuffix(path)}: call that address.")
        self._seen = f"status {status} and {content_type}"
        try:
            document = schemas.decode_object(raw)
        except GuestSessionsError as error:
            raise self._something_else() from error
        if status >= 400:  # noqa: PLR2004 - RFC 9110, section 15
            problem = self._check(document, _Problem)
            raise CallFailed(**msgspec.structs.asdict(problem))
        return document

    def _check(self, document: dict[str, Any], shape: type[T]) -> T:
        try:
            return msgspec.convert(document, shape)
        except msgspec.ValidationError as error:
            raise self._something_else() from error

    def _something_else(self) -> CallFailed:
        return CallFailed(
            f"{self._url} responds with {self._seen}, but not as a guest-sessions service. "
            "Its address has no path such as /v1, and is most often that of GUEST_ISSUER."
        )


def failure_of(error: Exception, url: str) -> str:
    """What is wrong with the address, or with what listens there."""
    match error:
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError() | ValueError():
            return f"{url} is not an address: it must begin with http:// or https:// and name a host."
        case aiohttp.ClientConnectorDNSError():
            return f"{url} cannot be called: there is no host {error.host}."
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLError() | aiohttp.ClientSSLError():
            return f"{url} cannot be called by TLS: the certificate is not trusted, or it is an http:// address."
        case aiohttp.ClientConnectorError():
            return f"{url} cannot be called: nothing listens on {error.host}:{error.port} ({error.os_error.strerror})."
        case TimeoutError():
            return f"{url} did not respond within {TIMEOUT_S} s."
    return f"{url} does not respond as an HTTP service."


async def is_ready(url: str) -> bool:
    """Whether `url` responds with 200 within two seconds."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            return response.status == 200  # noqa: PLR2004 - RFC 9110, section 15.3.1
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return False
