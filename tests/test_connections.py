"""The end of a connection, in one process: who is answered when the service is told to end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from service.app import make_app, make_runner
from service.settings import Settings
from tests.api import Api
from tests.security.heads import get, post
from tests.security.wire import check_problem, connected


@asynccontextmanager
async def ending(folder: Path, *, body_timeout_s: float = 5.0) -> AsyncIterator[tuple[Api, web.AppRunner]]:
    """A service, and what ends it."""
    app = make_app(Settings.from_mapping({"GUEST_KEYS_DIR": str(folder)}), body_timeout_s=body_timeout_s)
    runner = make_runner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:
        try:
            yield Api(session, f"http://127.0.0.1:{runner.addresses[0][1]}"), runner
        finally:
            await runner.cleanup()


@pytest.mark.parametrize(
    ("length", "pieces"),
    [(b"Content-Length: 2", [b"{", b"}"]), (b"Transfer-Encoding: chunked", [b"1\r\n{\r\n", b"1\r\n}\r\n0\r\n\r\n"])],
)
async def test_a_request_whose_body_is_still_coming_is_answered_before_the_end(
    tmp_path: Path, length: bytes, pieces: list[bytes]
) -> None:
    async with ending(tmp_path) as (api, runner), connected(api) as wire:
        wire.writer.write(post(length))
        await under_way(runner)

        end = asyncio.create_task(runner.cleanup())
        for piece in pieces:
            await asyncio.sleep(0.05)
            wire.writer.write(piece)
        reply = await wire.reply()
        await end

        assert (reply.status, reply.headers["connection"]) == (201, "close")
        assert await wire.rest() == b""


async def test_a_body_that_never_comes_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async with ending(tmp_path, body_timeout_s=0.1) as (api, runner), connected(api) as wire:
        wire.writer.write(post(b"Content-Length: 2"))
        await under_way(runner)

        async with asyncio.timeout(8):
            await runner.cleanup()

        check_problem(await wire.reply(), status=408, code="request_timeout")


async def test_what_waits_for_a_next_request_is_closed_at_once(tmp_path: Path) -> None:
    async with ending(tmp_path) as (api, runner), connected(api) as used, connected(api) as unused:
        used.writer.write(get())
        assert (await used.reply()).status == 200

        async with asyncio.timeout(2):
            await runner.cleanup()

        assert (await used.rest(), await unused.rest()) == (b"", b"")


async def under_way(runner: web.AppRunner) -> None:
    """Returns when the head of a request has been taken in."""
    server = runner.server
    assert server is not None
    async with asyncio.timeout(5):
        while not server.requests_count:  # noqa: ASYNC110 - aiohttp tells no event
            await asyncio.sleep(0.01)
