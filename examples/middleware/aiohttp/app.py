"""A small application with guest sessions: `python app.py PORT`."""

import os
import sys

from aiohttp import web
from guests import GuestSessions

guests = GuestSessions(
    os.environ["GUEST_URL"],
    issuer=os.environ["GUEST_ISSUER"],
    cookie=os.environ.get("GUEST_COOKIE_NAME", "__Host-guest"),
    api_key=os.environ.get("GUEST_API_KEY"),
    renew_after_s=int(os.environ.get("GUEST_RENEW_AFTER", "2592000")),
)
sessions = {"ada": {"name": "Ada"}}
routes = web.RouteTableDef()


@routes.get("/")
async def page(request):
    return web.json_response({"guest": request["guest"]})


@routes.post("/cart")
async def cart(request):
    await guests.save(request, {"cart": await request.json()})
    return web.json_response({"guest": request["guest"]})


@routes.post("/login")
async def login(request):
    merge = await guests.hand_over(request, sessions["ada"])
    sessions["ada"] = merge["payload"]
    return web.json_response({"session": sessions["ada"], "merged": merge["merged"]})


app = web.Application()
app.add_routes(routes)
guests.setup(app)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
