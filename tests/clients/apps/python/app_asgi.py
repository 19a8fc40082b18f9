"""FastAPI: `python app_asgi.py PORT`."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from common import CACHING, SETTINGS, account, problem, report, shown, store
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from guest_sessions import GuestError
from guest_sessions.asgi import GuestSessions

sessions = GuestSessions(**SETTINGS)
app = FastAPI()
app.add_middleware(sessions.middleware)
lock = asyncio.Lock()


@app.exception_handler(GuestError)
async def refuse(_: Request, error: GuestError) -> JSONResponse:
    status, body = problem(error)
    return JSONResponse(body, status)


@app.get("/")
async def page(request: Request) -> Any:
    return shown(sessions.guest(request))


@app.get("/public")
@app.get("/no-store")
async def cached_page(request: Request, response: Response) -> Any:
    response.headers["Cache-Control"] = CACHING[request.url.path[1:]]
    return shown(sessions.guest(request))


@app.post("/replace")
async def replace(request: Request) -> Any:
    await sessions.guest(request).replace(await request.json())
    return shown(sessions.guest(request))


@app.post("/patch")
async def patch(request: Request) -> Any:
    await sessions.guest(request).patch(await request.json())
    return shown(sessions.guest(request))


@app.post("/apply")
async def apply(request: Request) -> Any:
    await sessions.guest(request).apply(await request.json())
    return shown(sessions.guest(request))


@app.post("/twice")
async def twice(request: Request) -> Any:
    for merge_patch in await request.json():
        await sessions.guest(request).patch(merge_patch)
    return shown(sessions.guest(request))


@app.post("/change")
async def change(request: Request) -> Any:
    asked = await request.json()
    await getattr(sessions.guest(request), asked["method"])(asked["change"], **asked["options"])
    return shown(sessions.guest(request))


@app.post("/login")
async def login(request: Request) -> Any:
    options = await request.json()
    async with lock:
        result = await sessions.guest(request).hand_over(account, **options)
        store(result.payload)
    return report(result)


@app.post("/logout")
async def logout(request: Request) -> Any:
    sessions.guest(request).forget()
    return {}


@app.post("/fail")
async def fail(request: Request) -> Any:
    await sessions.guest(request).replace(await request.json())
    return Response("the application failed", 500)


@app.post("/fail-login")
async def fail_login(request: Request) -> Any:
    await sessions.guest(request).hand_over(account)
    raise RuntimeError("the account could not be stored")


@app.post("/late")
async def late(request: Request) -> Any:
    payload = await request.json()

    async def body() -> AsyncIterator[str]:
        yield "started "
        try:
            await sessions.guest(request).replace(payload)
        except GuestError as error:
            yield error.code

    return StreamingResponse(body())


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
