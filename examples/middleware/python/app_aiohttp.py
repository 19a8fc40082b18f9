"""A small application with guest sessions: `python app_aiohttp.py PORT`."""

import os
import sys

from aiohttp import web
from guests import NotSaved
from guests_aiohttp import GuestSessions

sessions = GuestSessions(
    os.environ["GUEST_URL"],
    issuer=os.environ["GUEST_ISSUER"].replace(" ", "").split(","),
    cookie=os.environ.get("GUEST_COOKIE_NAME", "__Host-guest"),
    api_key=os.environ.get("GUEST_API_KEY"),
    renew_after_s=int(os.environ.get("GUEST_RENEW_AFTER", "2592000")),
)
users = {"ada": {"name": "Ada"}}
routes = web.RouteTableDef()


@routes.get("/")
async def page(request):
    return web.json_response({"guest": request["guest"].claims})


@routes.post("/cart")
async def cart(request):
    try:
        await request["guest"].save({"cart": await request.json()})
    except NotSaved as error:
        return web.json_response({"detail": str(error)}, status=503)
    return web.json_response({"guest": request["guest"].claims})


@routes.post("/login")
async def login(request):
    merge = await request["guest"].hand_over(users["ada"])
    users["ada"] = merge["payload"]
    return web.json_response({"session": users["ada"], "merged": merge["merged"]})


app = web.Application()
app.add_routes(routes)
sessions.setup(app)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
