"""OpenID Connect with Authlib and FastAPI: a visitor who logs in takes the cart along, and no other guest.

Between the start of a login and its callback, another site may have planted a guest of its own. So `login` notes the
guest's id in what Authlib keeps for the login's `state`, and `callback` hands over that guest alone.
tests/login runs this on a small double of an identity provider.
"""

import os
import sys

import uvicorn
from accounts import account_of, change_account
from authlib.integrations.starlette_client import OAuth
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import RedirectResponse
from guest_sessions.asgi import GuestSessions
from starlette.middleware.sessions import SessionMiddleware

guests = GuestSessions(
    os.environ["GUEST_URL"], issuer=os.environ["GUEST_ISSUER"], api_key=os.environ.get("GUEST_API_KEY")
)
app = FastAPI()
app.add_middleware(SessionMiddleware, secret_key=os.environ["SESSION_SECRET"])
app.add_middleware(guests.middleware)

provider = OAuth().register(
    "provider",
    server_metadata_url=os.environ["OIDC_ISSUER"] + "/.well-known/openid-configuration",
    client_id=os.environ["OIDC_CLIENT_ID"],
    client_secret=os.environ["OIDC_CLIENT_SECRET"],
    client_kwargs={"scope": "openid"},
)


@app.get("/login")
async def login(request: Request) -> RedirectResponse:
    authorization = await provider.create_authorization_url(str(request.url_for("callback")))
    noted = guests.guest(request).id or "nobody"  # a guest who appears later is another one
    redirect_uri = str(request.url_for("callback"))
    await provider.save_authorize_data(request, redirect_uri=redirect_uri, guest=noted, **authorization)
    return RedirectResponse(authorization["url"])


@app.get("/callback")
async def callback(request: Request) -> RedirectResponse:
    noted = await provider.framework.get_state_data(request.session, request.query_params.get("state"))
    token = await provider.authorize_access_token(request)  # refuses a state that is not of this browser

    async def merge(account: dict) -> dict:
        # It does not raise: without guest-sessions, or with another guest, the account comes back as it was.
        merged = await guests.guest(request).hand_over(account, policy="cart", expect=noted["guest"])
        return dict(merged.payload)

    await change_account(token["userinfo"]["sub"], merge)
    request.session["user"] = token["userinfo"]["sub"]
    return RedirectResponse("/account")


@app.get("/account")
async def account(request: Request) -> dict:
    if "user" not in request.session:
        raise HTTPException(401)
    return account_of(request.session["user"])


@app.get("/")
async def page(request: Request) -> dict:
    return {"guest": guests.guest(request).payload}


@app.post("/cart")
async def put_into_cart(request: Request) -> dict:
    await guests.guest(request).patch({"cart": await request.json()}, policy="cart")
    return {"guest": guests.guest(request).payload}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
