"""Everything but the API itself: the JWKS and discovery documents, health, metrics, the API's description and its page.

None of it needs an API key.
"""

from importlib import resources
from typing import Final

import msgspec
from aiohttp import web

from service.errors import NotReady
from service.http import swagger_ui
from service.http.metrics import CONTENT_TYPE, Metrics
from service.http.problems import HttpProblem
from service.http.response import Response, ResponseHead, json_response
from service.http.routing import Routing
from service.http.token_exchange import GRANT_TYPE, PAYLOAD_SCOPE
from service.keys.manager import KeyManager

STALE_IF_ERROR_S: Final = 86_400
"""How long verifiers may go on with the JWKS that they have while this service is down (RFC 5861, section 4): a day."""

_JSON: Final = {"Content-Type": "application/json", "Cache-Control": "no-store"}
_NOSNIFF: Final = {"X-Content-Type-Options": "nosniff"}
_OK, _UNAVAILABLE = ResponseHead(200, _JSON), ResponseHead(503, _JSON)
_METRICS: Final = ResponseHead(200, {**_NOSNIFF, "Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})
_OPENAPI: Final = ResponseHead(
    200, {**_NOSNIFF, "Content-Type": "application/yaml", "Access-Control-Allow-Origin": "*"}
)
_DOCS: Final = ResponseHead(
    200,
    {
        **_NOSNIFF,
        "Content-Security-Policy": swagger_ui.CSP,
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
        "Cache-Control": "public, max-age=3600",
    },
)


class OpsHandlers:
    """The handlers for verifiers, operators and readers of the API's description."""

    def __init__(
        self, *, keys: KeyManager, metrics: Metrics, issuer: str, asks_for_a_key: bool, jwks_max_age_s: int
    ) -> None:
        self._keys = keys
        self._metrics = metrics
        self._discovery = msgspec.json.encode(discovery_document(issuer, asks_for_a_key=asks_for_a_key))
        published = {
            **_NOSNIFF,
            "Content-Type": "application/json",
            "Cache-Control": f"public, max-age={jwks_max_age_s}, stale-if-error={STALE_IF_ERROR_S}",
            "Access-Control-Allow-Origin": "*",
        }
        self._published, self._not_modified = ResponseHead(200, published), ResponseHead(304, published)
        self._openapi = (resources.files("service") / "openapi.yaml").read_bytes()

    def routes(self, routing: Routing) -> list[web.RouteDef]:
        """The routes beside the API."""
        return [
            routing.get("/.well-known/jwks.json", self.jwks),
            routing.get("/.well-known/openid-configuration", self.discovery),
            routing.get("/.well-known/oauth-authorization-server", self.discovery),
            routing.get("/healthz", self.healthz),
            routing.get("/readyz", self.readyz),
            routing.get("/metrics", self.metrics),
            routing.get("/openapi.yaml", self.openapi),
            routing.get("/docs", self.docs),
            routing.get("/docs/", self.docs),
            routing.get("/docs/{name}", self.docs_asset),
        ]

    async def jwks(self, request: web.Request) -> Response:
        """`GET /.well-known/jwks.json`: the public keys (RFC 7517, section 5)."""
        loaded = self._keys.loaded
        if loaded is None:
            raise NotReady("There is no signing key yet.")
        etag = {"ETag": loaded.etag}
        # Weak comparison, over all lines of the header (RFC 9110, section 13.1.2).
        listed = ",".join(request.headers.getall("If-None-Match", ())).split(",")
        if not {"*", loaded.etag}.isdisjoint(each.strip().removeprefix("W/") for each in listed):
            return Response(self._not_modified, extra_headers=etag)
        return Response(self._published, loaded.jwks, extra_headers=etag)

    async def discovery(self, _request: web.Request) -> Response:
        """The discovery documents (OpenID Connect Discovery 1.0, section 4; RFC 8414, section 3)."""
        return Response(self._published, self._discovery)

    async def healthz(self, _request: web.Request) -> Response:
        """`GET /healthz`: the process responds."""
        return json_response(_OK, {"status": "ok"})

    async def readyz(self, _request: web.Request) -> Response:
        """`GET /readyz`: whether it can sign, and the state of its keys and of Redis."""
        status = self._keys.status()
        return json_response(_OK if status.ready else _UNAVAILABLE, status)

    async def metrics(self, _request: web.Request) -> Response:
        """`GET /metrics`, for Prometheus."""
        return Response(_METRICS, self._metrics.text())

    async def openapi(self, _request: web.Request) -> Response:
        """`GET /openapi.yaml`: the API's machine-readable description."""
        return Response(_OPENAPI, self._openapi)

    async def docs(self, request: web.Request) -> Response:
        """`GET /docs` and `GET /docs/`: the API in a browser."""
        body = swagger_ui.page(below=request.path.endswith("/"))
        return Response(_DOCS, body, extra_headers={"Content-Type": "text/html; charset=utf-8"})

    async def docs_asset(self, request: web.Request) -> Response:
        """`GET /docs/NAME`: a file that the page loads."""
        asset = swagger_ui.assets().get(request.match_info["name"])
        if asset is None:
            raise HttpProblem("not_found", "There is no such asset.")
        body, content_type = asset
        return Response(_DOCS, body, extra_headers={"Content-Type": content_type})


def discovery_document(issuer: str, *, asks_for_a_key: bool) -> dict[str, object]:
    """The metadata that verifiers read. There is no authorization endpoint, as nobody logs in here."""
    base = issuer.rstrip("/")
    # The API key is the client's secret, whatever the client's id.
    client_auth = ["client_secret_basic", "client_secret_post"] if asks_for_a_key else ["none"]
    return {
        "issuer": issuer,
        "jwks_uri": f"{base}/.well-known/jwks.json",
        "token_endpoint": f"{base}/v1/token",
        "token_endpoint_auth_methods_supported": client_auth,
        "grant_types_supported": [GRANT_TYPE],
        "scopes_supported": [PAYLOAD_SCOPE],
        "introspection_endpoint": f"{base}/v1/introspect",
        # RFC 8414, section 2: where it is no client's method, a name of the registry of OAuth Access Token Types.
        "introspection_endpoint_auth_methods_supported": [*client_auth, *(["Bearer"] if asks_for_a_key else [])],
        "response_types_supported": ["none"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256", "RS256"],
        "claims_supported": ["iss", "sub", "aud", "iat", "exp", "orig_iat", "jti", "ver", "payload"],
        "service_documentation": f"{base}/docs",
    }
