"""A real service in the test's process, and a client that holds every answer against `openapi.yaml`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from service.app import KEYS, make_app
from service.config import Settings
from service.http.protocol import HEAD_TIMEOUT_S, Runner
from service.http.request import BODY_TIMEOUT_S
from tests.doubles import HandClock
from tests.log_sieve import keep_out_ring, keep_out_settings
from tests.openapi import check_answer


class Answer:
    """One answer, read to its end."""

    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = body

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Api:
    """Calls one service; every answer is checked before the test sees it."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        self.session = session
        self.base_url = base_url

    async def ask(self, method: str, path: str, **arguments: Any) -> Answer:
        async with self.session.request(method, self.base_url + path, **arguments) as response:
            answer = Answer(response, await response.read())
        headers = {name.lower(): value for name, value in answer.headers.items()}
        check_answer(method=method, path=path, status=answer.status, headers=headers, body=answer.body)
        if path.startswith("/v1/"):
            assert headers["cache-control"] == "no-store"
        assert headers["server"] == "guest-sessions"
        return answer

    async def get(self, path: str, **arguments: Any) -> Answer:
        return await self.ask("GET", path, **arguments)

    async def post(self, path: str, body: object, **arguments: Any) -> Answer:
        return await self.ask("POST", path, json=body, **arguments)

    async def send(self, path: str, raw: bytes, *, content_type: str = "application/json") -> Answer:
        return await self.ask("POST", path, data=raw, headers={"Content-Type": content_type})

    async def issue(self, **members: Any) -> dict[str, Any]:
        answer = await self.post("/v1/issue", members)
        assert answer.status == 201, answer.body
        return dict(answer.json)

    async def verify(self, token: str, **members: Any) -> dict[str, Any]:
        answer = await self.post("/v1/verify", {"token": token, **members})
        assert answer.status == 200, answer.body
        return dict(answer.json)


@asynccontextmanager
async def serving(folder: Path, clock: HandClock) -> AsyncIterator[Callable[..., Awaitable[Api]]]:
    """Gives a function that starts a service under further settings; all of them end with the context."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)
        )

        async def start(
            *, body_timeout_s: float = BODY_TIMEOUT_S, head_timeout_s: float = HEAD_TIMEOUT_S, **variables: str
        ) -> Api:
            given = {"GUEST_KEYS_DIR": str(folder / "keys"), **variables}
            settings = Settings.from_mapping(given)
            keep_out_settings(given)
            app = make_app(settings, clock=clock, body_timeout_s=body_timeout_s)
            runner = Runner(app, head_timeout_s=head_timeout_s)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            if (loaded := app[KEYS].loaded) is not None:
                keep_out_ring(loaded.ring)
            return Api(session, f"http://127.0.0.1:{runner.addresses[0][1]}")

        yield start
