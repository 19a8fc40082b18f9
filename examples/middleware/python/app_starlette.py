"""A small FastAPI application with guest sessions: `python app_starlette.py PORT`."""

import os
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from guests import NotSaved
from guests_starlette import GuestSessions

sessions = GuestSessions(
    os.environ["GUEST_URL"],
    issuer=os.environ["GUEST_ISSUER"].replace(" ", "").split(","),
    cookie=os.environ.get("GUEST_COOKIE_NAME", "__Host-guest"),
    api_key=os.environ.get("GUEST_API_KEY"),
    renew_after_s=int(os.environ.get("GUEST_RENEW_AFTER", "2592000")),
)
users: dict[str, dict[str, Any]] = {"ada": {"name": "Ada"}}
app = FastAPI()
app.middleware("http")(sessions)


@app.get("/")
async def page(request: Request):
    return {"guest": request.state.guest.claims}


@app.post("/cart")
async def cart(request: Request):
    try:
        await request.state.guest.save({"cart": await request.json()})
    except NotSaved as error:
        raise HTTPException(503, str(error)) from error
    return {"guest": request.state.guest.claims}


@app.post("/login")
async def login(request: Request):
    merge = await request.state.guest.hand_over(users["ada"])
    users["ada"] = merge["payload"]
    return {"session": users["ada"], "merged": merge["merged"]}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
