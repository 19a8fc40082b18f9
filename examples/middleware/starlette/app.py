"""A small FastAPI application with guest sessions: `python app.py PORT`."""

import os
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from guests import GuestSessions

guests = GuestSessions(
    os.environ["GUEST_URL"],
    issuer=os.environ["GUEST_ISSUER"],
    cookie=os.environ.get("GUEST_COOKIE_NAME", "__Host-guest"),
    api_key=os.environ.get("GUEST_API_KEY"),
    renew_after_s=int(os.environ.get("GUEST_RENEW_AFTER", "2592000")),
)
sessions: dict[str, dict[str, Any]] = {"ada": {"name": "Ada"}}
app = FastAPI()
app.middleware("http")(guests)


@app.get("/")
async def page(request: Request):
    return {"guest": request.state.guest}


@app.post("/cart")
async def cart(request: Request):
    await guests.save(request, {"cart": await request.json()})
    return {"guest": request.state.guest}


@app.post("/login")
async def login(request: Request):
    merge = await guests.hand_over(request, sessions["ada"])
    sessions["ada"] = merge["payload"]
    return {"session": sessions["ada"], "merged": merge["merged"]}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
