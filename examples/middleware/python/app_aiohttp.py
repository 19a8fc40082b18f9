"""A small aiohttp application with guest sessions: `python app_aiohttp.py PORT`."""

import asyncio
import os
import sys
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from guest_sessions import GuestError
from guest_sessions.aiohttp import GuestSessions

sessions = GuestSessions(
    os.environ["GUEST_URL"],
    issuer=os.environ["GUEST_ISSUER"],
    api_key=os.environ.get("GUEST_API_KEY"),
)
users: dict[str, dict[str, Any]] = {"ada": {"name": "Ada"}}
lock = asyncio.Lock()
routes = web.RouteTableDef()


@routes.get("/")
async def page(request: web.Request) -> web.Response:
    guest = sessions.guest(request)
    return web.json_response({"guest": guest.id, "cart": guest.payload.get("cart", [])})


@routes.post("/cart")
async def cart(request: web.Request) -> web.StreamResponse:
    guest = sessions.guest(request)
    await guest.patch({"cart": [*guest.payload.get("cart", []), await request.json()]}, policy="cart")
    return await page(request)


@routes.post("/login")
async def login(request: web.Request) -> web.Response:
    async with lock:  # in a database a transaction: read, hand over and store are one step
        result = await sessions.guest(request).hand_over(users["ada"], policy="cart")
        users["ada"] = result.payload
    return web.json_response({"session": result.payload, "merged": result.merged})


@routes.post("/logout")
async def logout(request: web.Request) -> web.Response:
    sessions.guest(request).forget()
    return web.json_response({})


@web.middleware
async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except GuestError as error:
        status = 503 if error.code == "unavailable" else 422
        return web.json_response({"code": error.code, "detail": error.message}, status=status)


app = web.Application()
sessions.setup(app)
app.middlewares.append(refuse)
app.add_routes(routes)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
