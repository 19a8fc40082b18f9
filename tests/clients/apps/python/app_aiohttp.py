"""aiohttp: `python app_aiohttp.py PORT`."""

import asyncio
import sys

from aiohttp import web
from aiohttp.typedefs import Handler
from common import CACHING, SETTINGS, account, problem, report, shown, store
from guest_sessions import GuestError
from guest_sessions.aiohttp import GuestSessions

sessions = GuestSessions(**SETTINGS)
routes = web.RouteTableDef()
lock = asyncio.Lock()


@web.middleware
async def closed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Responds before the guest's middleware."""
    if request.path == "/closed":
        raise web.HTTPFound("/")
    return await handler(request)


@web.middleware
async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except GuestError as error:
        status, body = problem(error)
        return web.json_response(body, status=status)


@routes.get("/")
async def page(request: web.Request) -> web.Response:
    return web.json_response(shown(sessions.guest(request)))


@routes.get("/public")
@routes.get("/no-store")
async def cached_page(request: web.Request) -> web.Response:
    caching = CACHING[request.path[1:]]
    return web.json_response(shown(sessions.guest(request)), headers={"Cache-Control": caching})


@routes.post("/replace")
async def replace(request: web.Request) -> web.Response:
    await sessions.guest(request).replace(await request.json())
    return web.json_response(shown(sessions.guest(request)))


@routes.post("/patch")
async def patch(request: web.Request) -> web.Response:
    await sessions.guest(request).patch(await request.json())
    return web.json_response(shown(sessions.guest(request)))


@routes.post("/apply")
async def apply(request: web.Request) -> web.Response:
    await sessions.guest(request).apply(await request.json())
    return web.json_response(shown(sessions.guest(request)))


@routes.post("/twice")
async def twice(request: web.Request) -> web.Response:
    for merge_patch in await request.json():
        await sessions.guest(request).patch(merge_patch)
    return web.json_response(shown(sessions.guest(request)))


@routes.post("/change")
async def change(request: web.Request) -> web.Response:
    asked = await request.json()
    await getattr(sessions.guest(request), asked["method"])(asked["change"], **asked["options"])
    return web.json_response(shown(sessions.guest(request)))


@routes.post("/login")
async def login(request: web.Request) -> web.Response:
    options = await request.json()
    async with lock:
        result = await sessions.guest(request).hand_over(account, **options)
        store(result.payload)
    return web.json_response(report(result))


@routes.post("/logout")
async def logout(request: web.Request) -> web.Response:
    sessions.guest(request).forget()
    return web.json_response({})


@routes.post("/fail")
async def fail(request: web.Request) -> web.Response:
    await sessions.guest(request).replace(await request.json())
    return web.Response(status=500, text="the application failed")


@routes.post("/fail-login")
async def fail_login(request: web.Request) -> web.Response:
    await sessions.guest(request).hand_over(account)
    raise RuntimeError("the account could not be stored")


@routes.post("/late")
async def late(request: web.Request) -> web.StreamResponse:
    payload = await request.json()
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"started ")
    try:
        await sessions.guest(request).replace(payload)
    except GuestError as error:
        await response.write(error.code.encode())
    return response


app = web.Application(middlewares=[closed])
sessions.setup(app)
app.middlewares.append(refuse)
app.add_routes(routes)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
