"""Connections in one process: their memory, their end, and the requests that are completed when the service ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from service.app import make_app
from service.config import Settings
from service.http.protocol import Runner
from tests.api import Api
from tests.security.heads import get, post
from tests.security.wire import check_problem, connected


@asynccontextmanager
async def ending(
    folder: Path, *, body_timeout_s: float = 5.0, write_timeout_s: float = 30.0
) -> AsyncIterator[tuple[Api, Runner]]:
    """A service, and what ends it."""
    app = make_app(Settings.from_mapping({"GUEST_KEYS_DIR": str(folder)}), body_timeout_s=body_timeout_s)
    runner = Runner(app, write_timeout_s=write_timeout_s)
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


async def test_while_the_service_ends_each_answer_is_the_last_on_its_connection(tmp_path: Path) -> None:
    """Else a gateway sends its next request over a connection that is just being closed."""
    async with ending(tmp_path) as (api, runner), connected(api) as kept, connected(api) as late:
        kept.writer.write(get())
        assert "connection" not in (await kept.reply()).headers

        runner.drain()
        for wire in (kept, late):
            wire.writer.write(get())
            assert (await wire.reply()).headers["connection"] == "close"
            assert await wire.rest() == b""


async def test_a_body_that_never_comes_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async with ending(tmp_path, body_timeout_s=0.1) as (api, runner), connected(api) as wire:
        wire.writer.write(post(b"Content-Length: 2"))
        await under_way(runner)

        async with asyncio.timeout(8):
            await runner.cleanup()

        check_problem(await wire.reply(), status=408, code="request_timeout")


async def test_a_body_that_was_given_up_is_taken_for_no_request(tmp_path: Path) -> None:
    async with ending(tmp_path, body_timeout_s=0.1) as (api, _), connected(api) as wire:
        wire.writer.write(post(b"Content-Length: 99"))
        reply = await wire.reply()
        wire.writer.write(get())

        assert (reply.status, reply.headers["connection"]) == (408, "close")
        assert await wire.rest() == b""


UNREAD = [
    b"POST /v1/auth HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
    b"POST /v1/issue HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9999999\r\n\r\n",
]


@pytest.mark.parametrize("unread", UNREAD)
async def test_a_connection_whose_body_was_answered_unread_closes_by_itself(tmp_path: Path, unread: bytes) -> None:
    async with ending(tmp_path) as (api, _), connected(api) as wire:
        wire.writer.write(unread)
        assert (await wire.reply()).status in (401, 413)

        async with asyncio.timeout(20):
            assert await wire.rest() == b""


@pytest.mark.parametrize("unread", UNREAD)
async def test_a_body_that_was_answered_unread_does_not_hold_up_the_end(tmp_path: Path, unread: bytes) -> None:
    async with ending(tmp_path) as (api, runner), connected(api) as wire:
        wire.writer.write(unread)
        assert (await wire.reply()).status in (401, 413)

        async with asyncio.timeout(8):
            await runner.cleanup()


async def test_what_waits_for_a_next_request_is_closed_at_once(tmp_path: Path) -> None:
    async with ending(tmp_path) as (api, runner), connected(api) as used, connected(api) as unused:
        used.writer.write(get())
        assert (await used.reply()).status == 200

        async with asyncio.timeout(2):
            await runner.cleanup()

        assert (await used.rest(), await unused.rest()) == (b"", b"")


ASSET = get(target=b"/docs/swagger-ui-bundle.js")


async def test_an_application_with_middlewares_is_not_served_without_them(tmp_path: Path) -> None:
    app = make_app(Settings.from_mapping({"GUEST_KEYS_DIR": str(tmp_path)}))
    app.middlewares.append(web.normalize_path_middleware())

    with pytest.raises(ValueError, match="middlewares"):
        await Runner(app).setup()


async def test_answers_that_nobody_reads_do_not_pile_up(tmp_path: Path) -> None:
    async with ending(tmp_path, write_timeout_s=600) as (api, runner), connected(api) as wire:
        wire.writer.write(get(target=b"/nothing") * 100_000)
        server = runner.server
        assert server is not None
        answered = -1
        while answered != server.requests_count:
            answered = server.requests_count
            await asyncio.sleep(0.5)

        (connection,) = server.connections
        assert connection.transport is not None
        assert isinstance(connection.transport, asyncio.WriteTransport)
        assert answered < 100_000
        assert connection.transport.get_write_buffer_size() < 2 * 65_536


async def test_a_client_that_takes_no_answer_is_let_go(tmp_path: Path) -> None:
    async with ending(tmp_path, write_timeout_s=0.2) as (api, runner), connected(api) as wire:
        wire.writer.write(ASSET * 20)
        await under_way(runner)
        server = runner.server
        assert server is not None

        async with asyncio.timeout(20):
            while server.connections:  # noqa: ASYNC110 - aiohttp has no event for it
                await asyncio.sleep(0.01)


async def test_a_client_that_takes_its_answers_late_gets_them_all(tmp_path: Path) -> None:
    async with ending(tmp_path) as (api, runner), connected(api) as wire:
        wire.writer.write(ASSET * 20)
        await under_way(runner)
        await asyncio.sleep(0.3)

        sizes = {len((await wire.reply()).body) for _ in range(20)}

        assert len(sizes) == 1


async def under_way(runner: web.AppRunner) -> None:
    """Returns when the head of a request has been taken in."""
    server = runner.server
    assert server is not None
    async with asyncio.timeout(20):
        while not server.requests_count:  # noqa: ASYNC110 - aiohttp has no event for it
            await asyncio.sleep(0.01)
