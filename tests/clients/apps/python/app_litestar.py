"""Litestar: `python app_litestar.py PORT`."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from common import CACHING, SETTINGS, account, problem, report, shown, store
from guest_sessions import GuestError
from guest_sessions.asgi import GuestSessions
from litestar import Litestar, Request, Response, get, post
from litestar.response import Stream

AnyRequest = Request[Any, Any, Any]
sessions = GuestSessions(**SETTINGS)
lock = asyncio.Lock()


def refuse(_: AnyRequest, error: GuestError) -> Response[Any]:
    status, body = problem(error)
    return Response(body, status_code=status)


@get("/")
async def page(request: AnyRequest) -> Any:
    return shown(sessions.guest(request.scope))


@get(["/public", "/no-store"])
async def cached_page(request: AnyRequest) -> Response[Any]:
    caching = CACHING[request.url.path[1:]]
    return Response(shown(sessions.guest(request.scope)), headers={"Cache-Control": caching})


@post("/replace", status_code=200)
async def replace(request: AnyRequest) -> Any:
    await sessions.guest(request.scope).replace(await request.json())
    return shown(sessions.guest(request.scope))


@post("/patch", status_code=200)
async def patch(request: AnyRequest) -> Any:
    await sessions.guest(request.scope).patch(await request.json())
    return shown(sessions.guest(request.scope))


@post("/apply", status_code=200)
async def apply(request: AnyRequest) -> Any:
    await sessions.guest(request.scope).apply(await request.json())
    return shown(sessions.guest(request.scope))


@post("/twice", status_code=200)
async def twice(request: AnyRequest) -> Any:
    for merge_patch in await request.json():
        await sessions.guest(request.scope).patch(merge_patch)
    return shown(sessions.guest(request.scope))


@post("/change", status_code=200)
async def change(request: AnyRequest) -> Any:
    asked = await request.json()
    await getattr(sessions.guest(request.scope), asked["method"])(asked["change"], **asked["options"])
    return shown(sessions.guest(request.scope))


@post("/login", status_code=200)
async def login(request: AnyRequest) -> Any:
    options = await request.json()
    async with lock:
        result = await sessions.guest(request.scope).hand_over(account, **options)
        store(result.payload)
    return report(result)


@post("/logout", status_code=200)
async def logout(request: AnyRequest) -> Any:
    sessions.guest(request.scope).forget()
    return {}


@post("/fail", status_code=500)
async def fail(request: AnyRequest) -> str:
    await sessions.guest(request.scope).replace(await request.json())
    return "the application failed"


@post("/fail-login")
async def fail_login(request: AnyRequest) -> None:
    await sessions.guest(request.scope).hand_over(account)
    raise RuntimeError("the account could not be stored")


@post("/late", status_code=200)
async def late(request: AnyRequest) -> Stream:
    payload = await request.json()

    async def body() -> AsyncIterator[str]:
        yield "started "
        try:
            await sessions.guest(request.scope).replace(payload)
        except GuestError as error:
            yield error.code

    return Stream(body())


app = Litestar(
    [page, cached_page, replace, patch, apply, twice, change, login, logout, fail, fail_login, late],
    middleware=[sessions.middleware],
    exception_handlers={GuestError: refuse},
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
