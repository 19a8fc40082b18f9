"""The API under `/v1`: each handler decodes a request, calls one use case and encodes the response.

Checks the headers that are parameters, such as `Idempotency-Key`, and decides nothing else. Knows the use cases and the
schemas, no adapter.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from service.errors import Fault, InvalidPolicy, InvalidToken, StaleToken, TokenTooLarge
from service.http import schemas, token_exchange
from service.http.cookies import GuestCookie
from service.http.forward_auth import ForwardAuth
from service.http.request import Body
from service.http.response import Response, ResponseHead, json_response
from service.http.routing import Routing
from service.http.token_exchange import ExchangeRequest
from service.merge.policy import Policy
from service.merge.policy_parser import compile_policy
from service.merge.service import MergeService
from service.tokens.service import SignedToken, TokenService

_AUTH_PATTERNS: Final = ("/v1/auth", r"/v1/auth/{path:[\s\S]*}")
"""aiohttp matches the decoded path, where a dot would stop at an encoded newline."""
_IDEMPOTENCY_KEY: Final = re.compile(r"[!-~]{16,128}")
_BAD_IDEMPOTENCY_KEY: Final = Fault("", "the header Idempotency-Key must be 16 to 128 visible ASCII characters")

_JSON: Final = {"Content-Type": "application/json", "Cache-Control": "no-store"}
_OK, _CREATED = ResponseHead(200, _JSON), ResponseHead(201, _JSON)
_EXCHANGED: Final = ResponseHead(200, {**_JSON, "Pragma": "no-cache"})
_AUTH: Final = ResponseHead(200, {"Cache-Control": "no-store"})
_AUTH_REFUSED: Final = ResponseHead(
    401, {"Cache-Control": "no-store", "WWW-Authenticate": 'Bearer realm="guest", error="invalid_token"'}
)
_AUTH_MISSING: Final = ResponseHead(401, {"Cache-Control": "no-store", "WWW-Authenticate": 'Bearer realm="guest"'})
"""A request without a token gets no error code (RFC 6750, section 3.1)."""


class ApiHandlers:
    """The handlers of the API."""

    def __init__(
        self,
        *,
        tokens: TokenService,
        merges: MergeService,
        merge_policies: Mapping[str, Policy],
        default_policy: str,
        forward_auth: ForwardAuth,
        cookie: GuestCookie,
    ) -> None:
        self._tokens = tokens
        self._merges = merges
        self._merge_policies = merge_policies
        self._default_policy = default_policy
        self._forward_auth = forward_auth
        self._cookie = cookie

    def routes(self, routing: Routing) -> list[web.RouteDef]:
        """The routes of the API."""
        return [
            routing.post("/v1/issue", self.issue),
            routing.post("/v1/refresh-payload", self.refresh),
            routing.post("/v1/verify", self.verify),
            routing.post_form("/v1/introspect", self.introspect),
            routing.post_form("/v1/token", self.token, render=token_exchange.error_response),
            routing.post("/v1/merge", self.merge),
            *routing.any_method("/v1/auth", self.auth, patterns=_AUTH_PATTERNS),
        ]

    async def issue(self, request: web.Request, body: Body) -> Response:
        """`POST /v1/issue`."""
        key = request.headers.get("Idempotency-Key")
        faults = [] if key is None or _IDEMPOTENCY_KEY.fullmatch(key) else [_BAD_IDEMPOTENCY_KEY]
        asked = await body.compute(lambda: schemas.decode(body.raw, schemas.IssueRequest, header_faults=faults))
        token = await self._tokens.issue(
            payload=asked.payload,
            extra_claims=asked.claims,
            subject=asked.subject or None,
            ttl_s=asked.ttl or None,
            audience=schemas.audience_list(asked.audience),
            idempotency_key=key,
            first_issued_at_s=None if asked.first_issued_at is UNSET else asked.first_issued_at,
        )
        return self._token_response(_CREATED, token, cookie=asked.cookie)

    async def refresh(self, _request: web.Request, body: Body) -> Response:
        """`POST /v1/refresh-payload`."""
        asked = await body.compute(lambda: schemas.decode(body.raw, schemas.RefreshRequest))
        policy = await body.compute(lambda: self._policy(asked.policy))
        try:
            refreshed = await self._merges.refresh(
                asked.token,
                policy=policy,
                patch=asked.patch(),
                ttl_s=asked.ttl or None,
                if_current=asked.if_current,
                compute=body.compute,
            )
        except StaleToken:
            self._tokens.observe("stale")
            raise
        if refreshed.rebased_onto is not None:
            self._tokens.observe("rebased")
        return self._token_response(_OK, refreshed.token, cookie=asked.cookie, rebased_onto=refreshed.rebased_onto)

    async def verify(self, _request: web.Request, body: Body) -> Response:
        """`POST /v1/verify`."""
        asked = schemas.decode(body.raw, schemas.VerifyRequest)
        try:
            token = await self._tokens.verify(asked.token, audience=schemas.audience_list(asked.audience))
        except InvalidToken as error:
            return json_response(_OK, {"active": False, "reason": error.reason})
        return json_response(_OK, schemas.verified_object(token, self._cookie, now_s=self._tokens.clock()))

    async def introspect(self, _request: web.Request, form: schemas.Form) -> Response:
        """`POST /v1/introspect` (RFC 7662, section 2)."""
        try:
            token = await self._tokens.verify(schemas.introspected_token(form))
        except InvalidToken:
            return json_response(_OK, {"active": False})
        return json_response(_OK, {"active": True, **token.claims.to_json()})

    async def token(self, _request: web.Request, form: schemas.Form) -> Response:
        """`POST /v1/token` (RFC 8693, section 2)."""
        asked = ExchangeRequest.from_form(form)
        guest = await self._tokens.verify(asked.subject_token)
        token = await self._tokens.access_token(guest, audience=asked.audience, with_payload=asked.with_payload)
        self._tokens.observe("exchanged")
        return json_response(_EXCHANGED, token_exchange.exchange_object(token, with_payload=asked.with_payload))

    async def merge(self, _request: web.Request, body: Body) -> Response:
        """`POST /v1/merge`."""
        asked = await body.compute(lambda: schemas.decode(body.raw, schemas.MergeRequest))
        merged = await self._merges.merge(
            asked.tokens,
            session=asked.session or {},
            policy=await body.compute(lambda: self._policy(asked.policy)),
            strict=asked.strict,
            renew=asked.renew and not asked.dry_run,
            compute=body.compute,
        )
        if merged.result.merged and not asked.dry_run:
            self._tokens.observe("merged")
        next_object, cookies = None, self._cookie.deletions()
        if merged.next is not None:
            next_object = schemas.token_object(merged.next, self._cookie)
            if next_object["cookie_bytes_left"] >= 0:
                cookies = [self._cookie.set(merged.next.raw_token, max_age_s=merged.next.claims.lifetime_s)]
        encoded = await body.compute(lambda: msgspec.json.encode(schemas.merged_object(merged, next_object)))
        response = Response(_OK, encoded)
        for each in cookies if asked.cookie and not asked.dry_run else ():
            response.add_header("Set-Cookie", each)
        return response

    async def auth(self, request: web.Request) -> Response:
        """`/v1/auth`, any method, any path below: for gateways."""
        headers = request.headers
        query = request.rel_url.raw_query_string
        if query == "mode=ensure" or (query and request.query.get("mode") == "ensure"):
            decision = await self._forward_auth.ensure(headers, method=request.method, peer=request.remote)
            if decision.outcome == "new":
                self._tokens.observe("minted")
            return Response(_AUTH, extra_headers=decision.headers)
        verified = await self._forward_auth.verify(headers)
        if verified is not None:
            return Response(_AUTH, extra_headers=verified.headers)
        return Response(_AUTH_REFUSED if self._forward_auth.presents_a_token(headers) else _AUTH_MISSING)

    def _policy(self, asked: str | dict[str, Any] | UnsetType) -> Policy:
        if isinstance(asked, dict):
            return compile_policy(asked, at="/policy")
        policy = self._merge_policies.get(self._default_policy if asked is UNSET else asked)
        if policy is None:
            known = ", ".join(sorted(self._merge_policies))
            raise InvalidPolicy("There is no such policy.", [Fault("/policy", f"is none of: {known}")])
        return policy

    def _token_response(
        self, head: ResponseHead, token: SignedToken, *, cookie: bool, rebased_onto: int | None = None
    ) -> Response:
        made = schemas.token_object(token, self._cookie)
        extra_headers = None
        if cookie:
            size_bytes, bytes_left = len(token.raw_token), made["cookie_bytes_left"]
            if bytes_left < 0:
                raise TokenTooLarge(size_bytes=size_bytes, limit_bytes=size_bytes + bytes_left)
            set_cookie = self._cookie.set(token.raw_token, max_age_s=token.claims.lifetime_s)
            extra_headers = {"Set-Cookie": set_cookie}
        if rebased_onto is not None:
            made["rebased_onto"] = rebased_onto
        return Response(head, msgspec.json.encode(made), extra_headers=extra_headers)
