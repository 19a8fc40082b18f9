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
from aiohttp import web

from service.errors import Fault, InvalidPolicy, InvalidRequest, InvalidToken, NotReady, TokenTooLarge
from service.http import schemas, swagger_ui
from service.http.auth import ApiKeyAuth
from service.http.cookies import GuestCookie
from service.http.forward_auth import ForwardAuth
from service.http.metrics import CONTENT_TYPE, Metrics
from service.http.problems import Handler, HttpProblem, failure_response
from service.http.request import read_body
from service.http.response import Response, ResponseHead
from service.keys import Clock
from service.keys.manager import KeyManager
from service.merge.policy import Policy
from service.merge.policy_parser import compile_policy
from service.merge.service import MergeService
from service.tokens.compute import Compute, run_inline
from service.tokens.service import SignedToken, TokenService

BODY_TIMEOUT_S: Final = 5.0
"""For the whole body to come in; a stalled one would otherwise be held for as long as the client likes."""
STALE_IF_ERROR_S: Final = 86_400
"""A day on which verifiers may go on with the JWKS they have while this service is down (RFC 5861, section 4)."""

LONGEST_AT_ONCE_BYTES: Final = 16_384
"""A longer body is worked on aside: what comes of one token takes milliseconds, 256 KiB of lists up to seconds."""
LONGER_ONES: Final = 2
"""How many of these are decoded at once: it takes ten times their memory, and one thread works on them all anyway."""

_PUBLIC: Final = {"X-Content-Type-Options": "nosniff"}
_BELOW_AUTH: Final = r"/v1/auth/{path:[\s\S]*}"
"""Matched against the decoded path, where a dot would stop at an encoded newline."""
_IDEMPOTENCY_KEY: Final = re.compile(r"[!-~]{16,128}")

BodyHandler = Callable[[web.Request, bytes], Awaitable[Response]]


class Api:
    """All endpoints over one set of use cases."""

    def __init__(  # noqa: PLR0913 - each is one thing that the root puts in, by name
        self,
        *,
        tokens: TokenService,
        merges: MergeService,
        keys: KeyManager,
        gateway: ForwardAuth,
        cookie: GuestCookie,
        access: ApiKeyAuth,
        metrics: Metrics,
        merge_policies: Mapping[str, Policy],
        issuer: str,
        introspection_auth: str,
        jwks_max_age_s: int,
        clock: Clock,
        aside: Compute,
        body_timeout_s: float = BODY_TIMEOUT_S,
    ) -> None:
        self._tokens = tokens
        self._merges = merges
        self._keys = keys
        self._gateway = gateway
        self._cookie = cookie
        self._access = access
        self._metrics = metrics
        self._merge_policies = merge_policies
        self._clock = clock
        self._body_timeout_s = body_timeout_s
        self._aside = aside
        self._longer_ones = asyncio.Semaphore(LONGER_ONES)
        self._metadata = msgspec.json.encode(_metadata(issuer, introspection_auth))
        published = {
            **_PUBLIC,
            "Content-Type": "application/json",
            "Cache-Control": f"public, max-age={jwks_max_age_s}, stale-if-error={STALE_IF_ERROR_S}",
            "Access-Control-Allow-Origin": "*",
        }
        self._published, self._not_modified = ResponseHead(200, published), ResponseHead(304, published)
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
            web.route("*", _BELOW_AUTH, self._timed("/v1/auth", self.auth), expect_handler=_expect_nothing),
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

    async def issue(self, request: web.Request, body: bytes) -> Response:
        """`POST /v1/issue`."""
        asked = await self._compute(body)(lambda: schemas.decode(body, schemas.IssueRequest))
        token = await self._tokens.issue(
            payload=asked.payload,
            extra_claims=asked.claims,
            subject=asked.subject or None,
            ttl_s=asked.ttl or None,
            audience=schemas.audience_list(asked.audience),
            idempotency_key=_idempotency_key(request),
        )
        return self._token_answer(_CREATED, token, cookie=asked.cookie)

    async def refresh(self, _request: web.Request, body: bytes) -> Response:
        """`POST /v1/refresh-payload`."""
        compute = self._compute(body)
        asked = await compute(lambda: schemas.decode(body, schemas.RefreshRequest))
        token = await self._tokens.refresh(asked.token, patch=asked.patch(), ttl_s=asked.ttl or None, compute=compute)
        return self._token_answer(_OK, token, cookie=asked.cookie)

    async def verify(self, _request: web.Request, body: bytes) -> Response:
        """`POST /v1/verify`."""
        asked = schemas.decode(body, schemas.VerifyRequest)
        try:
            token = await self._tokens.verify(asked.token, audience=schemas.audience_list(asked.audience))
        except InvalidToken as error:
            return _json(_OK, {"active": False, "reason": error.reason})
        expires_in_s = token.claims.expires_at_s - int(self._clock())
        bytes_left = self._cookie.bytes_left(token.size_bytes, max_age_s=expires_in_s)
        return _json(_OK, schemas.verified_object(token, expires_in_s=expires_in_s, cookie_bytes_left=bytes_left))

    async def introspect(self, _request: web.Request, body: bytes) -> Response:
        """`POST /v1/introspect` (RFC 7662, section 2)."""
        raw_token = schemas.decode_form(body)
        try:
            token = await self._tokens.verify(raw_token)
        except InvalidToken:
            return _json(_OK, {"active": False})
        return _json(_OK, {"active": True, **token.claims.to_json()})

    async def merge(self, _request: web.Request, body: bytes) -> Response:
        """`POST /v1/merge`."""
        compute = self._compute(body)
        asked = await compute(lambda: schemas.decode(body, schemas.MergeRequest))
        merged = await self._merges.merge(
            asked.tokens,
            session=asked.session,
            policy=await compute(lambda: self._policy(asked.policy)),
            strict=asked.strict,
            renew=asked.renew and not asked.dry_run,
            compute=compute,
        )
        if merged.result.merged and not asked.dry_run:
            self._metrics.token("merged")
        successor = merged.next
        extra_headers = None
        if asked.cookie and not asked.dry_run:
            extra_headers = {"Set-Cookie": self._handover_cookie(successor, renew=asked.renew)}
        next_object = None if successor is None else self._token_object(successor)
        answer = await compute(lambda: msgspec.json.encode(schemas.merged_object(merged, next_object)))
        return Response(_OK, answer, extra_headers=extra_headers)

    async def auth(self, request: web.Request) -> Response:
        """`/v1/auth`, any method, any path below: for gateways."""
        headers = request.headers
        if _asks_to_ensure(request):
            decision = await self._gateway.ensure(headers, method=request.method, peer=request.remote)
            if decision.outcome == "new":
                self._metrics.token("minted")
            return Response(_AUTH, extra_headers=decision.headers)
        verified = await self._gateway.verify(headers)
        if verified is not None:
            return Response(_AUTH, extra_headers=verified.headers)
        return Response(_AUTH_REFUSED if self._gateway.presents_a_token(headers) else _AUTH_MISSING)

    async def jwks(self, request: web.Request) -> Response:
        """`GET /.well-known/jwks.json`."""
        loaded = self._keys.loaded
        if loaded is None:
            raise NotReady("There is no signing key yet.")
        etag = {"ETag": loaded.etag}
        if _matches(request.headers.get("If-None-Match"), loaded.etag):
            return Response(self._not_modified, extra_headers=etag)
        return Response(self._published, loaded.jwks, extra_headers=etag)

    async def metadata(self, _request: web.Request) -> Response:
        """The discovery documents (OpenID Connect Discovery 1.0, section 4; RFC 8414, section 3)."""
        return Response(self._published, self._metadata)

    async def healthz(self, _request: web.Request) -> Response:
        """The process answers."""
        return _json(_OK, {"status": "ok"})

    async def readyz(self, _request: web.Request) -> Response:
        """It can sign; says what Redis is doing."""
        status = self._keys.status()
        return _json(_OK if status.ready else _UNAVAILABLE, status)

    async def metrics_text(self, _request: web.Request) -> Response:
        """For Prometheus."""
        return Response(_METRICS, self._metrics.text())

    async def openapi(self, _request: web.Request) -> Response:
        """The contract in its machine-readable form."""
        return Response(_OPENAPI, self._openapi)

    async def docs(self, _request: web.Request) -> Response:
        """The API in a browser."""
        return Response(_DOCS, swagger_ui.HTML, extra_headers={"Content-Type": "text/html; charset=utf-8"})

    async def docs_asset(self, request: web.Request) -> Response:
        """What the page needs, from the package itself."""
        asset = swagger_ui.assets().get(request.match_info["name"])
        if asset is None:
            raise HttpProblem("not_found", "There is no such asset.")
        body, content_type = asset
        return Response(_DOCS, body, extra_headers={"Content-Type": content_type})

    def _compute(self, body: bytes) -> Compute:
        return self._aside if _is_long(body) else run_inline

    def _policy(self, asked: str | dict[str, Any]) -> Policy:
        if isinstance(asked, dict):
            return compile_policy(asked, at="/policy")
        policy = self._merge_policies.get(asked)
        if policy is None:
            known = ", ".join(sorted(self._merge_policies))
            raise InvalidPolicy("There is no such policy.", [Fault("/policy", f"is none of: {known}")])
        return policy

    def _token_object(self, token: SignedToken) -> dict[str, Any]:
        return schemas.token_object(token, cookie_bytes_left=self._bytes_left(token))

    def _bytes_left(self, token: SignedToken) -> int:
        return self._cookie.bytes_left(len(token.raw_token), max_age_s=token.claims.lifetime_s)

    def _token_answer(self, head: ResponseHead, token: SignedToken, *, cookie: bool) -> Response:
        extra_headers = None
        if cookie:
            bytes_left = self._bytes_left(token)
            if bytes_left < 0:
                raise TokenTooLarge(size_bytes=len(token.raw_token), limit_bytes=len(token.raw_token) + bytes_left)
            extra_headers = {"Set-Cookie": self._set_cookie(token)}
        return Response(head, msgspec.json.encode(self._token_object(token)), extra_headers=extra_headers)

    def _set_cookie(self, token: SignedToken) -> str:
        return self._cookie.set(token.raw_token, max_age_s=token.claims.lifetime_s)

    def _handover_cookie(self, successor: SignedToken | None, *, renew: bool) -> str:
        """The new guest's cookie, or the end of the old one's where there is none to give."""
        if renew and successor is not None and self._bytes_left(successor) >= 0:
            return self._set_cookie(successor)
        return self._cookie.delete()

    def _post(self, path: str, handler: BodyHandler, *, media_type: str = "application/json") -> web.RouteDef:
        async def guarded(request: web.Request) -> Response:
            self._access.check(request.headers)
            body = await read_body(request, media_type=media_type, timeout_s=self._body_timeout_s)
            if not _is_long(body):
                return await handler(request, body)
            async with self._longer_ones:
                return await handler(request, body)

        return web.post(path, self._timed(path, guarded))

    def _get(self, path: str, handler: Handler) -> web.RouteDef:
        return web.get(path, self._timed(path, handler))

    def _timed(self, route: str, handler: Handler) -> Handler:
        meter = self._metrics.meter(route)

        async def timed(request: web.Request) -> Response:
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


_JSON: Final = {"Content-Type": "application/json", "Cache-Control": "no-store"}
_OK, _CREATED, _UNAVAILABLE = ResponseHead(200, _JSON), ResponseHead(201, _JSON), ResponseHead(503, _JSON)
_AUTH: Final = ResponseHead(200, {"Cache-Control": "no-store"})
_AUTH_REFUSED: Final = ResponseHead(
    401, {"Cache-Control": "no-store", "WWW-Authenticate": 'Bearer realm="guest", error="invalid_token"'}
)
_AUTH_MISSING: Final = ResponseHead(401, {"Cache-Control": "no-store", "WWW-Authenticate": 'Bearer realm="guest"'})
"""Who sent no token is told of no error (RFC 6750, section 3.1)."""
_METRICS: Final = ResponseHead(200, {**_PUBLIC, "Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})
_OPENAPI: Final = ResponseHead(200, {**_PUBLIC, "Content-Type": "application/yaml", "Access-Control-Allow-Origin": "*"})
_DOCS: Final = ResponseHead(
    200,
    {
        **_PUBLIC,
        "Content-Security-Policy": swagger_ui.CSP,
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
        "Cache-Control": "public, max-age=3600",
    },
)


async def _expect_nothing(_request: web.Request) -> None:
    """Gateways pass the visitor's `Expect` on; the body is never read here, and no 417 may go out."""


def _json(head: ResponseHead, value: object) -> Response:
    return Response(head, msgspec.json.encode(value))


def _is_long(body: bytes) -> bool:
    return len(body) > LONGEST_AT_ONCE_BYTES


def _asks_to_ensure(request: web.Request) -> bool:
    asked = request.rel_url.raw_query_string
    return asked == "mode=ensure" or (asked != "" and request.query.get("mode") == "ensure")


def _idempotency_key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        message = "the header Idempotency-Key must be 16 to 128 visible ASCII characters"
        raise InvalidRequest("The Idempotency-Key is malformed.", [Fault("", message)])
    return key


def _matches(if_none_match: str | None, etag: str) -> bool:
    """Weak comparison (RFC 9110, section 13.1.2)."""
    if if_none_match is None:
        return False
    listed = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return "*" in listed or etag in listed


def _metadata(issuer: str, introspection_auth: str) -> dict[str, object]:
    """What verifiers ask discovery for. No authorization endpoint: nobody logs in here."""
    base = issuer.rstrip("/")
    return {
        "issuer": issuer,
        "jwks_uri": f"{base}/.well-known/jwks.json",
        "introspection_endpoint": f"{base}/v1/introspect",
        "introspection_endpoint_auth_methods_supported": [introspection_auth],
        "response_types_supported": ["none"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256", "RS256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "claims_supported": ["iss", "sub", "aud", "iat", "exp", "orig_iat", "jti", "ver", "payload"],
        "service_documentation": f"{base}/docs",
    }
