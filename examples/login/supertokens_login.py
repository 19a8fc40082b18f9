"""SuperTokens with FastAPI: a visitor who logs in takes the cart along, in the account and in the access token.

`hand_over_guests` is the part that matters. tests/login runs this with SuperTokens' own SDK on a small double of
its core, which is a server that runs beside the application.
"""

import os
import sys

import uvicorn
from accounts import change_account
from fastapi import Depends, FastAPI, Request
from guest_sessions.asgi import GuestSessions
from supertokens_python import InputAppInfo, SupertokensConfig, get_request_from_user_context, init
from supertokens_python.framework.fastapi import get_middleware
from supertokens_python.recipe import emailpassword, session
from supertokens_python.recipe.session import SessionContainer
from supertokens_python.recipe.session.framework.fastapi import verify_session
from supertokens_python.recipe.session.interfaces import RecipeInterface

port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
guests = GuestSessions(
    os.environ["GUEST_URL"], issuer=os.environ["GUEST_ISSUER"], api_key=os.environ.get("GUEST_API_KEY")
)


def hand_over_guests(implementation: RecipeInterface) -> RecipeInterface:
    """Overrides `create_new_session`, through which every login goes, and each sign-up that logs in."""
    create_new_session = implementation.create_new_session

    async def create(
        user_id,
        recipe_user_id,
        access_token_payload,
        session_data_in_database,
        disable_anti_csrf,
        tenant_id,
        user_context,
    ) -> SessionContainer:
        request = get_request_from_user_context(user_context)  # None where a script makes a session

        async def hand_over(account: dict) -> dict:
            if request is None:
                return account
            # It does not raise: without guest-sessions the account comes back as it was, and the session is created.
            return dict((await guests.guest(request.request).hand_over(account, policy="cart")).payload)

        return await create_new_session(
            user_id,
            recipe_user_id,
            (access_token_payload or {}) | {"account": await change_account(user_id, hand_over)},
            session_data_in_database,
            disable_anti_csrf,
            tenant_id,
            user_context,
        )

    implementation.create_new_session = create
    return implementation


site = f"http://localhost:{port}"
init(
    app_info=InputAppInfo(app_name="shop", api_domain=site, website_domain=site, api_base_path="/auth"),
    supertokens_config=SupertokensConfig(connection_uri=os.environ.get("SUPERTOKENS_URL", "http://localhost:3567")),
    framework="fastapi",
    mode="asgi",
    recipe_list=[
        emailpassword.init(),
        session.init(override=session.InputOverrideConfig(functions=hand_over_guests)),
    ],
)
app = FastAPI()
app.add_middleware(get_middleware())
app.add_middleware(guests.middleware)  # around SuperTokens', which responds to the login


@app.get("/")
async def page(request: Request) -> dict:
    return {"guest": guests.guest(request).payload}


@app.post("/cart")
async def put_into_cart(request: Request) -> dict:
    await guests.guest(request).patch({"cart": await request.json()}, policy="cart")
    return {"guest": guests.guest(request).payload}


logged_in = Depends(verify_session())


@app.get("/account")
async def account(user_session: SessionContainer = logged_in) -> dict:
    return user_session.get_access_token_payload()["account"]


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=port)
