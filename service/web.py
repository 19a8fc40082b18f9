"""The routes. Each handler decodes, calls one use case, encodes; nothing is decided here.

Knows the use cases and the wire, no adapter.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from importlib import resources
from time import perf_counter
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web
from multidict import CIMultiDict

from service import docs_page, wire
from service.access import Access
from service.errors import Fault, InvalidPolicy, InvalidRequest, InvalidToken, NotReady, TokenTooLarge
from service.gateway import Gateway, GuestCookie
from service.keys import Keys
from service.merge_policies import Policy, compile_policy
from service.metrics import CONTENT_TYPE, Metrics
from service.ports import Clock
from service.problems import SERVER, Handler, HttpProblem, failure_response
from service.tokens import SignedToken, Tokens

BODY_TIMEOUT_S: Final = 5.0
"""For the whole body to come in; a stalled one would otherwise be held for as long as the client likes."""
STALE_IF_ERROR_S: Final = 86_400
"""A day on which verifiers may go on with the JWKS they have while this service is down (RFC 5861, section 4)."""

_JSON: Final = CIMultiDict({"Content-Type": "application/json", "Cache-Control": "no-store", "Server": SERVER})
_PUBLIC: Final = {"Server": SERVER, "X-Content-Type-Options": "nosniff"}
_IDEMPOTENCY_KEY: Final = re.compile(r"[!-~]{16,128}")

BodyHandler = Callable[[web.Request, bytes], Awaitable[web.Response]]


class Api:
    """All endpoints over one set of use cases."""

    def __init__(  # noqa: PLR0913 - each is one thing that the root puts in, by name
        self,
        *,
        tokens: Tokens,
        keys: Keys,
        gateway: Gateway,
        cookie: GuestCookie,
        access: Access,
        metrics: Metrics,
        merge_policies: Mapping[str, Policy],
        issuer: str,
        jwks_max_age_s: int,
        clock: Clock,
        body_timeout_s: float = BODY_TIMEOUT_S,
    ) -> None:
        self._tokens = tokens
        self._keys = keys
        self._gateway = gateway
        self._cookie = cookie
        self._access = access
        self._metrics = metrics
        self._merge_policies = merge_policies
        self._clock = clock
        self._body_timeout_s = body_timeout_s
        self._metadata = msgspec.json.encode(_metadata(issuer))
        self._jwks_headers = CIMultiDict(
            {
                **_PUBLIC,
                "Content-Type": "application/json",
                "Cache-Control": f"public, max-age={jwks_max_age_s}, stale-if-error={STALE_IF_ERROR_S}",
                "Access-Control-Allow-Origin": "*",
            }
        )
        self._openapi = (resources.files("service") / "openapi.yaml").read_bytes()

    def routes(self) -> list[web.RouteDef]:
        """Every route of the contract."""
        return [
            self._post("/v1/issue", self.issue),
            self._post("/v1/refresh-payload", self.refresh),
            self._post("/v1/verify", self.verify),
            self._post("/v1/introspect", self.introspect, media_type="application/x-www-form-urlencoded"),
            self._post("/v1/merge", self.merge),
            web.route("*", "/v1/auth", self._timed("/v1/auth", self.auth), expect_handler=_expect_nothing),
            web.route("*", "/v1/auth/{path:.*}", self._timed("/v1/auth", self.auth), expect_handler=_expect_nothing),
            self._get("/.well-known/jwks.json", self.jwks),
            self._get("/.well-known/openid-configuration", self.metadata),
            self._get("/.well-known/oauth-authorization-server", self.metadata),
            self._get("/healthz", self.healthz),
            self._get("/readyz", self.readyz),
            self._get("/metrics", self.metrics_text),
            self._get("/openapi.yaml", self.openapi),
            self._get("/docs", self.docs),
            self._get("/docs/{name}", self.docs_asset),
        ]

    async def issue(self, request: web.Request, body: bytes) -> web.Response:
        """`POST /v1/issue`."""
        asked = wire.decode(body, wire.IssueRequest)
        token = self._tokens.issue(
            payload=asked.payload,
            further=asked.claims,
            subject=asked.subject or None,
            ttl_s=asked.ttl or None,
            audience=wire.audience_list(asked.audience),
            idempotency_key=_idempotency_key(request),
        )
        self._metrics.token("issued")
        return self._token_response(token, status=201, cookie=asked.cookie)

    async def refresh(self, _request: web.Request, body: bytes) -> web.Response:
        """`POST /v1/refresh-payload`."""
        asked = wire.decode(body, wire.RefreshRequest)
        token = self._tokens.refresh(asked.token, change=asked.change(), ttl_s=asked.ttl or None)
        self._metrics.token("refreshed")
        return self._token_response(token, status=200, cookie=asked.cookie)

    async def verify(self, _request: web.Request, body: bytes) -> web.Response:
        """`POST /v1/verify`."""
        asked = wire.decode(body, wire.VerifyRequest)
        try:
            token = self._tokens.verify(asked.token, audience=wire.audience_list(asked.audience))
        except InvalidToken as error:
            self._metrics.token(error.reason)
            return _json({"active": False, "reason": error.reason})
        self._metrics.token("verified")
        expires_in_s = token.claims.expires_at_s - int(self._clock())
        bytes_left = self._cookie.bytes_left(token_bytes=token.size_bytes, max_age_s=expires_in_s)
        return _json(wire.verified_object(token, expires_in_s=expires_in_s, cookie_bytes_left=bytes_left))

    async def introspect(self, _request: web.Request, body: bytes) -> web.Response:
        """`POST /v1/introspect` (RFC 7662, section 2)."""
        raw_token = wire.decode_form(body)
        try:
            token = self._tokens.verify(raw_token)
        except InvalidToken as error:
            self._metrics.token(error.reason)
            return _json({"active": False})
        self._metrics.token("verified")
        return _json({"active": True, **token.claims.to_json()})

    async def merge(self, _request: web.Request, body: bytes) -> web.Response:
        """`POST /v1/merge`."""
        asked = wire.decode(body, wire.MergeRequest)
        merged = self._tokens.merge(
            asked.tokens,
            session=asked.session,
            policy=self._policy(asked.policy),
            strict=asked.strict,
            renew=asked.renew and not asked.dry_run,
        )
        self._metrics.token("merged")
        successor = merged.next
        response = _json(wire.merged_object(merged, None if successor is None else self._token_object(successor)))
        if asked.cookie and not asked.dry_run:
            response.headers["Set-Cookie"] = self._handover_cookie(successor, renew=asked.renew)
        return response

    async def auth(self, request: web.Request) -> web.Response:
        """`/v1/auth`, any method, any path below: for gateways."""
        headers = request.headers
        if request.query_string and request.query.get("mode") == "ensure":
            identity = self._gateway.ensure(headers, method=request.method, peer=request.remote)
            if identity["X-Guest-New"] == "1":
                self._metrics.token("minted")
            return web.Response(status=200, headers={**_AUTH, **identity})
        verified = self._gateway.verify(headers)
        if verified is None:
            return web.Response(status=401, headers=_AUTH_REFUSED)
        return web.Response(status=200, headers={**_AUTH, **verified})

    async def jwks(self, request: web.Request) -> web.Response:
        """`GET /.well-known/jwks.json`."""
        loaded = self._keys.loaded
        if loaded is None:
            raise NotReady("There is no signing key yet.")
        headers = self._jwks_headers.copy()
        headers["ETag"] = loaded.etag
        if _matches(request.headers.get("If-None-Match"), loaded.etag):
            return web.Response(status=304, headers=headers)
        return web.Response(body=loaded.jwks, headers=headers)

    async def metadata(self, _request: web.Request) -> web.Response:
        """The discovery documents (OpenID Connect Discovery 1.0, section 4; RFC 8414, section 3)."""
        return web.Response(body=self._metadata, headers=self._jwks_headers)

    async def healthz(self, _request: web.Request) -> web.Response:
        """The process answers."""
        return _json({"status": "ok"})

    async def readyz(self, _request: web.Request) -> web.Response:
        """It can sign; says what Redis is doing."""
        status = self._keys.status()
        return _json(status, status=200 if status.ready else 503)

    async def metrics_text(self, _request: web.Request) -> web.Response:
        """For Prometheus."""
        headers = {**_PUBLIC, "Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"}
        return web.Response(body=self._metrics.text(), headers=headers)

    async def openapi(self, _request: web.Request) -> web.Response:
        """The contract in its machine-readable form."""
        headers = {**_PUBLIC, "Content-Type": "application/yaml", "Access-Control-Allow-Origin": "*"}
        return web.Response(body=self._openapi, headers=headers)

    async def docs(self, _request: web.Request) -> web.Response:
        """The API in a browser."""
        return web.Response(body=docs_page.HTML, headers={**_DOCS, "Content-Type": "text/html; charset=utf-8"})

    async def docs_asset(self, request: web.Request) -> web.Response:
        """What the page needs, from the package itself."""
        asset = docs_page.assets().get(request.match_info["name"])
        if asset is None:
            raise HttpProblem("not_found", "There is no such asset.")
        body, content_type = asset
        return web.Response(body=body, headers={**_DOCS, "Content-Type": content_type})

    def _policy(self, asked: str | dict[str, Any]) -> Policy:
        if isinstance(asked, dict):
            return compile_policy(asked, at="/policy")
        policy = self._merge_policies.get(asked)
        if policy is None:
            known = ", ".join(sorted(self._merge_policies))
            raise InvalidPolicy("There is no such policy.", [Fault("/policy", f"is none of: {known}")])
        return policy

    def _token_object(self, token: SignedToken) -> dict[str, Any]:
        return wire.token_object(token, cookie_bytes_left=self._bytes_left(token))

    def _bytes_left(self, token: SignedToken) -> int:
        return self._cookie.bytes_left(token_bytes=len(token.raw_token), max_age_s=token.claims.lifetime_s)

    def _token_response(self, token: SignedToken, *, status: int, cookie: bool) -> web.Response:
        response = _json(self._token_object(token), status=status)
        if cookie:
            bytes_left = self._bytes_left(token)
            if bytes_left < 0:
                raise TokenTooLarge(size_bytes=len(token.raw_token), limit_bytes=len(token.raw_token) + bytes_left)
            response.headers["Set-Cookie"] = self._set_cookie(token)
        return response

    def _set_cookie(self, token: SignedToken) -> str:
        return self._cookie.set(token.raw_token, max_age_s=token.claims.lifetime_s)

    def _handover_cookie(self, successor: SignedToken | None, *, renew: bool) -> str:
        """The new guest's cookie, or the end of the old one's where there is none to give."""
        if renew and successor is not None and self._bytes_left(successor) >= 0:
            return self._set_cookie(successor)
        return self._cookie.delete()

    def _post(self, path: str, handler: BodyHandler, *, media_type: str = "application/json") -> web.RouteDef:
        async def guarded(request: web.Request) -> web.StreamResponse:
            self._access.check(request.headers)
            return await handler(request, await _read(request, media_type=media_type, timeout_s=self._body_timeout_s))

        return web.post(path, self._timed(path, guarded))

    def _get(self, path: str, handler: Handler) -> web.RouteDef:
        return web.get(path, self._timed(path, handler))

    def _timed(self, route: str, handler: Handler) -> Handler:
        meter = self._metrics.meter(route)

        async def timed(request: web.Request) -> web.StreamResponse:
            started_s = perf_counter()
            try:
                response = await handler(request)
            except ConnectionError:
                raise
            except Exception as error:  # noqa: BLE001 - logged where it is not an expected one
                response = failure_response(error, request)
            meter.answered(response.status, seconds=perf_counter() - started_s)
            return response

        return timed


_AUTH: Final = {"Cache-Control": "no-store", "Server": SERVER}
_AUTH_REFUSED: Final = {**_AUTH, "WWW-Authenticate": 'Bearer realm="guest", error="invalid_token"'}
_DOCS: Final = {
    **_PUBLIC,
    "Content-Security-Policy": docs_page.CSP,
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cache-Control": "public, max-age=3600",
}


async def _expect_nothing(_request: web.Request) -> None:
    """Gateways pass the visitor's `Expect` on; the body is never read here, and a 417 would be one status too many."""


def _json(value: object, *, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), headers=_JSON)


async def _read(request: web.Request, *, media_type: str, timeout_s: float) -> bytes:
    """The body, of the media type that the endpoint takes, within size and time."""
    headers = request.headers
    if hdrs.CONTENT_ENCODING in headers:
        raise HttpProblem("unsupported_media_type", "No Content-Encoding is taken.")
    if (request.content_length or 0) > request.client_max_size:
        raise _too_large(request)
    if not request.body_exists:
        return b""
    if not _is_media_type(headers.get(hdrs.CONTENT_TYPE), media_type):
        raise HttpProblem("unsupported_media_type", f"The body must be {media_type} in UTF-8.")
    if headers.get(hdrs.TRANSFER_ENCODING, "chunked").lower() != "chunked":
        raise HttpProblem("unsupported_media_type", "No Transfer-Encoding but chunked is taken.")
    try:
        if request.content.is_eof():
            return await request.read()  # has come already, with the head: nothing to wait for
        async with asyncio.timeout(timeout_s):
            return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise _too_large(request) from error
    except TimeoutError as error:
        raise HttpProblem("request_timeout", f"The body did not come within {timeout_s:g} s.") from error
    except web.RequestPayloadError as error:
        raise HttpProblem("malformed_request", "The body's transfer coding is broken.") from error


def _too_large(request: web.Request) -> HttpProblem:
    limit = request.client_max_size
    return HttpProblem("request_too_large", f"The body is longer than {limit} bytes.", facts={"limit": limit})


def _is_media_type(header: str | None, media_type: str) -> bool:
    if header == media_type:
        return True
    essence, *parameters = [part.strip().lower() for part in (header or "").split(";")]
    charsets = {each.removeprefix("charset=").strip('"') for each in parameters if each.startswith("charset=")}
    return essence == media_type and charsets <= {"utf-8"}


def _idempotency_key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidRequest("The Idempotency-Key is malformed: 16 to 128 visible ASCII characters are taken.")
    return key


def _matches(if_none_match: str | None, etag: str) -> bool:
    """Weak comparison (RFC 9110, section 13.1.2)."""
    if if_none_match is None:
        return False
    listed = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return "*" in listed or etag in listed


def _metadata(issuer: str) -> dict[str, object]:
    """What verifiers ask discovery for. No authorization endpoint: nobody logs in here."""
    base = issuer.rstrip("/")
    return {
        "issuer": issuer,
        "jwks_uri": f"{base}/.well-known/jwks.json",
        "introspection_endpoint": f"{base}/v1/introspect",
        "introspection_endpoint_auth_methods_supported": ["none", "client_secret_bearer"],
        "response_types_supported": ["none"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256", "RS256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "claims_supported": ["iss", "sub", "aud", "iat", "exp", "orig_iat", "jti", "ver", "payload"],
        "service_documentation": f"{base}/docs",
    }
