"""A small shop with guest sessions: what a visitor does before login lives in the guest token alone.

Nothing is kept here for a guest: no row, no cache. Customers and their carts are in memory, for the demo.
`python examples/shop/demo.py` starts it together with the service.
"""

import hmac
import os
import secrets
import sys
from pathlib import Path
from typing import Any

import jinja2
from aiohttp import web

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "middleware/aiohttp")]  # the drop-in middleware, as it is

from catalog import CATALOG, MOST_OF_A_PIECE, euros  # noqa: E402  (found by the line above)
from guests import GuestSessions  # noqa: E402
from story import tell  # noqa: E402

SESSION_COOKIE = "shop_session"
PASSWORD = "clay"  # noqa: S105  (printed on the login page)
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self' 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

guests = GuestSessions(
    os.environ["GUEST_URL"],
    issuer=os.environ["GUEST_ISSUER"],
    cookie=os.environ.get("GUEST_COOKIE_NAME", "guest"),
    api_key=os.environ.get("GUEST_API_KEY"),
)
customers: dict[str, dict[str, Any]] = {"Ada": {}, "Grace": {}}
logins: dict[str, str] = {}
stories: dict[str, list[str]] = {}
routes = web.RouteTableDef()
pages = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True)
pages.filters["euros"] = euros


def customer(request: web.Request) -> str | None:
    """Who is logged in."""
    return logins.get(request.cookies.get(SESSION_COOKIE, ""))


def state_of(request: web.Request) -> dict[str, Any]:
    """The customer's state, or the guest's: the payload of the token, checked by the middleware."""
    name = customer(request)
    if name:
        return customers[name]
    return request["guest"]["payload"] if request["guest"] else {}


async def keep(request: web.Request, changes: dict[str, Any]) -> None:
    """Stores members of the state where it belongs: with the customer, or in a new token for the guest."""
    state = {**state_of(request), **changes}
    name = customer(request)
    if name:
        customers[name] = state
    else:
        await guests.save(request, state)


def render(request: web.Request, template: str, **facts: Any) -> web.Response:
    """A page with what all pages show."""
    state = state_of(request)
    facts |= {
        "catalog": CATALOG,
        "customer": customer(request),
        "cart": [line for line in state.get("cart", []) if line["sku"] in CATALOG],
        "favourites": state.get("favourites", []),
        "guest": request["guest"],
        "token_bytes": len(request["guest_token"] or ""),
        "most": MOST_OF_A_PIECE,
        "story": stories.pop(request.cookies.get(SESSION_COOKIE, ""), []),
    }
    html = pages.get_template(template).render(facts)
    return web.Response(text=html, content_type="text/html", headers={"Cache-Control": "no-store"})


@routes.get("/")
async def shelf(request: web.Request) -> web.Response:
    return render(request, "shelf.html")


@routes.get("/cart")
async def show_cart(request: web.Request) -> web.Response:
    return render(request, "cart.html")


@routes.post("/cart/{sku}")
async def change_cart(request: web.Request) -> web.Response:
    sku = request.match_info["sku"]
    if sku not in CATALOG:
        raise web.HTTPNotFound
    by = -1 if (await request.post()).get("by") == "-1" else 1
    lines = {line["sku"]: line["quantity"] for line in state_of(request).get("cart", [])}
    lines[sku] = min(lines.get(sku, 0) + by, MOST_OF_A_PIECE)
    cart = [{"sku": each, "quantity": quantity} for each, quantity in lines.items() if quantity > 0]
    await keep(request, {"cart": cart})
    return back(request, "/")


@routes.post("/favourites/{sku}")
async def change_favourites(request: web.Request) -> web.Response:
    sku = request.match_info["sku"]
    if sku not in CATALOG:
        raise web.HTTPNotFound
    favourites = list(state_of(request).get("favourites", []))
    favourites.remove(sku) if sku in favourites else favourites.append(sku)
    await keep(request, {"favourites": favourites})
    return back(request, "/")


@routes.get("/login")
async def ask_for_login(request: web.Request) -> web.Response:
    return render(request, "login.html", names=list(customers), password=PASSWORD)


@routes.post("/login")
async def log_in(request: web.Request) -> web.Response:
    form = await request.post()
    name, password = str(form.get("name")), str(form.get("password"))
    if name not in customers or not hmac.compare_digest(password.encode(), PASSWORD.encode()):
        return render(request, "login.html", names=list(customers), password=PASSWORD, wrong=True)
    brought = request["guest"]["payload"] if request["guest"] else {}
    merge = await guests.hand_over(request, customers[name], policy="shop")
    customers[name] = merge["payload"]  # saved before the answer gives the visitor the next, empty guest
    session = secrets.token_urlsafe()
    logins[session], stories[session] = name, tell(name, brought, merge)
    answer = back(request, "/cart")
    answer.set_cookie(SESSION_COOKIE, session, httponly=True, samesite="Lax")
    return answer


@routes.post("/logout")
async def log_out(request: web.Request) -> web.Response:
    logins.pop(request.cookies.get(SESSION_COOKIE, ""), None)
    answer = back(request, "/")
    answer.del_cookie(SESSION_COOKIE)
    return answer


def back(request: web.Request, path: str) -> web.Response:
    """To the page that the form was on, if it was one of ours."""
    came_from = request.query.get("from", path)
    target = came_from if came_from in {"/", "/cart"} else path
    return web.Response(status=303, headers={"Location": target})


@web.middleware
async def same_origin(request: web.Request, handler: Any) -> web.StreamResponse:
    """Forms are taken from our own pages only (a Lax cookie alone lets a neighbouring subdomain post)."""
    if request.method == "POST" and request.headers.get("Origin") != f"{request.scheme}://{request.host}":
        raise web.HTTPForbidden
    response: web.StreamResponse = await handler(request)
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response


def make_app() -> web.Application:
    app = web.Application(middlewares=[same_origin])
    guests.setup(app)
    app.add_routes(routes)
    app.router.add_static("/static", HERE / "static")
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(sys.argv[1]), print=None)
