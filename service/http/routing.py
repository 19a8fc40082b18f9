"""From a handler to a route: API key, body, duration, and the problem document that an error becomes.

Owns the order of these steps, which is the same for every endpoint. Knows no use case.
"""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from time import perf_counter
from typing import Final

from aiohttp import web

from service.http import schemas
from service.http.auth import ApiKeyAuth
from service.http.metrics import Metrics
from service.http.problems import ErrorRenderer, Handler, failure_response, identify, problem_response
from service.http.request import Body, BodyReader
from service.http.response import Response

BodyHandler = Callable[[web.Request, Body], Awaitable[Response]]
_BAD_REQUEST: Final = HTTPStatus.BAD_REQUEST
FormHandler = Callable[[web.Request, schemas.Form], Awaitable[Response]]


class Routing:
    """Makes the routes of one service."""

    def __init__(self, *, auth: ApiKeyAuth, bodies: BodyReader, metrics: Metrics) -> None:
        self._auth = auth
        self._bodies = bodies
        self._metrics = metrics

    def get(self, path: str, handler: Handler) -> web.RouteDef:
        """A route for GET and HEAD that needs no API key."""
        return web.get(path, self._measured(path, handler))

    def post(self, path: str, handler: BodyHandler) -> web.RouteDef:
        """A route for POST with JSON, for callers that `ApiKeyAuth` lets through."""

        async def guarded(request: web.Request) -> Response:
            self._auth.check(request.headers)
            return await self._bodies.pass_to(handler, request, media_type="application/json")

        return web.post(path, self._measured(path, guarded))

    def post_form(self, path: str, handler: FormHandler, *, render: ErrorRenderer = problem_response) -> web.RouteDef:
        """A route for POST with a form, for callers that `ApiKeyAuth` lets through as OAuth clients."""

        async def with_form(request: web.Request, body: Body) -> Response:
            form = schemas.decode_form(body.raw)
            self._auth.check(request.headers, form={name: values[-1] for name, values in form.items()})
            return await handler(request, form)

        async def guarded(request: web.Request) -> Response:
            return await self._bodies.pass_to(with_form, request, media_type="application/x-www-form-urlencoded")

        return web.post(path, self._measured(path, guarded, render=render))

    def any_method(self, path: str, handler: Handler, *, patterns: tuple[str, ...]) -> list[web.RouteDef]:
        """Routes for all methods and all paths of `patterns`, counted under `path`; they never read a body."""
        measured = self._measured(path, handler)
        return [web.route("*", each, measured, expect_handler=_ignore_expect) for each in patterns]

    def _measured(self, route: str, handler: Handler, *, render: ErrorRenderer = problem_response) -> Handler:
        count = self._metrics.meter(route)

        async def measured(request: web.Request) -> Response:
            started_s = perf_counter()
            try:
                response = await handler(request)
            except ConnectionError:
                raise
            except Exception as error:  # noqa: BLE001 - `failure_response` logs it
                response = failure_response(error, request, route=route, render=render)
            else:
                if "X-Request-Id" in request.headers or response.status >= _BAD_REQUEST:
                    identify(response, request, route=route)
            count(response.status, perf_counter() - started_s)
            return response

        return measured


async def _ignore_expect(_request: web.Request) -> None:
    """Gateways forward the visitor's `Expect`; the body is never read here, and no 417 may go out."""
