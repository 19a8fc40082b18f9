"""The yardstick: aiohttp handlers that read the same body and answer a constant of the same size.

`python -m benchmarks.constant PORT '{"/v1/issue": ["POST", 700], ...}'`
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable

import uvloop
from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.Response]]


def constant(body: bytes) -> Handler:
    """Reads nothing, answers `body`."""

    async def handler(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    return handler


def reading_constant(body: bytes) -> Handler:
    """Reads the request's body, answers `body`."""

    async def handler(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=body, content_type="application/json")

    return handler


async def main(port: int, sizes: dict[str, tuple[str, int]]) -> None:
    """Serves until killed."""
    app = web.Application()
    for path, (method, size) in sizes.items():
        make = reading_constant if method == "POST" else constant
        app.router.add_route(method, path, make(b"x" * size))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), json.loads(sys.argv[2])))
