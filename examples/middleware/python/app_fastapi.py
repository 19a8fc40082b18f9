"""A small FastAPI application with guest sessions: `python app_fastapi.py PORT`."""

import asyncio
import os
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from guest_sessions import GuestError
from guest_sessions.asgi import GuestSessions
from pydantic import BaseModel


class Line(BaseModel):
    sku: str
    quantity: int = 1


class Shop(BaseModel):
    """A guest's payload."""

    cart: list[Line] = []


sessions = GuestSessions(
    os.environ["GUEST_URL"],
    issuer=os.environ["GUEST_ISSUER"],
    api_key=os.environ.get("GUEST_API_KEY"),
    payload=Shop,
)
users: dict[str, dict[str, Any]] = {"ada": {"name": "Ada"}}
lock = asyncio.Lock()
app = FastAPI()
app.add_middleware(sessions.middleware)


@app.exception_handler(GuestError)
async def refuse(_: Request, error: GuestError) -> JSONResponse:
    return JSONResponse({"code": error.code, "detail": error.message}, 503 if error.code == "unavailable" else 422)


@app.get("/")
async def page(request: Request) -> dict[str, Any]:
    guest = sessions.guest(request)
    return {"guest": guest.id, "cart": guest.payload.cart}


@app.post("/cart")
async def cart(request: Request, line: Line) -> dict[str, Any]:
    guest = sessions.guest(request)
    await guest.replace(Shop(cart=[*guest.payload.cart, line]), policy="cart")
    return {"guest": guest.id, "cart": guest.payload.cart}


@app.post("/login")
async def login(request: Request) -> dict[str, Any]:
    async with lock:  # in a database a transaction: read, hand over and store are one step
        result = await sessions.guest(request).hand_over(users["ada"], policy="cart")
        users["ada"] = result.payload
    return {"session": result.payload, "merged": result.merged}


@app.post("/logout")
async def logout(request: Request) -> dict[str, Any]:
    sessions.guest(request).forget()
    return {}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
