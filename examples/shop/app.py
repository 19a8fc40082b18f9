"""A small shop with guest sessions: what a visitor does before login lives in the guest token alone.

Nothing is kept here for a guest: no row, no cache. Customers and their carts are in memory, for the demo.
`python examples/shop/demo.py` starts it together with the service.
"""

import asyncio
import contextlib
import hmac
import logging
import os
import secrets
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import jinja2
from aiohttp import web
from catalog import CATALOG, MOST_OF_A_PIECE, euros
from guest_sessions import GuestError
from guest_sessions.aiohttp import GuestSessions
from notices import COOKIE as NOTICE_COOKIE
from notices import Notice, leave, left
from story import Story, story_of

HERE = Path(__file__).parent
SESSION_COOKIE = "shop_session"
PASSWORD = "clay"  # noqa: S105  (printed on the login page)
POLICY = "shop"
"""Of policies.toml: how a guest joins the customer at login, and how changes of two tabs come together."""
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self' 'unsafe-inline'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

sessions = GuestSessions(
    os.environ["GUEST_URL"],
    issuer=os.environ["GUEST_ISSUER"],
    cookie=os.environ.get("GUEST_COOKIE_NAME"),
    api_key=os.environ.get("GUEST_API_KEY"),
)
customers: dict[str, dict[str, Any]] = {"Ada": {}, "Grace": {}}
locks = {name: asyncio.Lock() for name in customers}
logins: dict[str, str] = {}
stories: dict[str, Story] = {}
log = logging.getLogger("shop")
routes = web.RouteTableDef()
pages = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True)
pages.filters["euros"] = euros


def customer(request: web.Request) -> str | None:
    """Who is logged in."""
    return logins.get(request.cookies.get(SESSION_COOKIE, ""))


def account_of(request: web.Request) -> AbstractAsyncContextManager[object]:
    """Reading a customer's state and writing it back is one step, as in a database's transaction.

    A guest's needs none: a change is applied to the guest's token by the service.
    """
    name = customer(request)
    return locks[name] if name else contextlib.nullcontext()


def state_of(request: web.Request) -> dict[str, Any]:
    """The customer's state, or the guest's: the payload of the token, verified by the middleware."""
    name = customer(request)
    return customers[name] if name else sessions.guest(request).payload


async def keep(request: web.Request, changes: dict[str, Any]) -> bool:
    """Stores members of the state where it belongs: with the customer, or in a new token for the guest.

    Whether that could be done: a guest's state stays as it is while the service is unavailable.
    """
    name = customer(request)
    if name:
        customers[name] = {**customers[name], **changes}
        return True
    try:
        await sessions.guest(request).patch(changes, policy=POLICY)
    except GuestError as error:
        log.warning("a guest's change was not saved: %s", error)
        return False
    return True


def render(request: web.Request, template: str, status: int = 200, **facts: Any) -> web.Response:
    """A page with what all pages show."""
    state, guest = state_of(request), sessions.guest(request)
    cart = [line for line in state.get("cart", []) if line["sku"] in CATALOG]
    facts |= {
        "path": request.path,
        "status": status,
        "catalog": CATALOG,
        "customer": customer(request),
        "cart": cart,
        "count": sum(line["quantity"] for line in cart),
        "favourites": state.get("favourites", []),
        "guest": guest if guest.id else None,
        "unread": guest.is_unread and not customer(request),
        "token_bytes": len(guest.token or ""),
        "most": MOST_OF_A_PIECE,
        "story": stories.pop(request.cookies.get(SESSION_COOKIE, ""), None),
    }
    html = pages.get_template(template).render(facts)
    return web.Response(status=status, text=html, content_type="text/html", headers={"Cache-Control": "no-store"})


async def bring_along(request: web.Request, name: str) -> Story:
    """Hands the guest over to the customer. While the service is unavailable, both stay as they are."""
    guest = sessions.guest(request)
    brought = None if guest.is_unread else guest.payload
    async with locks[name]:  # of two logins at a time, the later one would take back what the first one brought
        had = customers[name]
        result = await guest.hand_over(had, policy=POLICY)
        customers[name] = result.payload  # stored before the response gives the visitor the next, empty guest
    return story_of(name, had=had, brought=brought, result=result)


async def render_with_notice(request: web.Request, template: str) -> web.Response:
    """A page that also says, once, what the last form did, and brings along what a login had to leave behind."""
    name = customer(request)
    if name and any(sessions.guest(request).payload.values()):
        story = await bring_along(request, name)
        if not story.waits:
            stories[request.cookies[SESSION_COOKIE]] = story
    response = render(request, template, notice=left(request))
    if NOTICE_COOKIE in request.cookies:
        response.del_cookie(NOTICE_COOKIE)
    return response


@routes.get("/")
async def shelf(request: web.Request) -> web.Response:
    return await render_with_notice(request, "shelf.html")


@routes.get("/cart")
async def show_cart(request: web.Request) -> web.Response:
    return await render_with_notice(request, "cart.html")


@routes.post("/cart/{sku}")
async def change_cart(request: web.Request) -> web.Response:
    sku = request.match_info["sku"]
    if sku not in CATALOG:
        raise web.HTTPNotFound
    by = -1 if (await request.post()).get("by") == "-1" else 1
    async with account_of(request):
        lines = {line["sku"]: line["quantity"] for line in state_of(request).get("cart", [])}
        wanted = lines.get(sku, 0) + by
        if wanted > MOST_OF_A_PIECE:
            return back(request, sku, notice="most")
        lines[sku] = wanted
        cart = [{"sku": each, "quantity": quantity} for each, quantity in lines.items() if quantity > 0]
        kept = await keep(request, {"cart": cart})
    done = "added" if by > 0 else "less" if wanted > 0 else "gone"
    return back(request, sku, notice=done if kept else "failed")


@routes.post("/favourites/{sku}")
async def change_favourites(request: web.Request) -> web.Response:
    sku = request.match_info["sku"]
    if sku not in CATALOG:
        raise web.HTTPNotFound
    async with account_of(request):
        favourites = list(state_of(request).get("favourites", []))
        favourites.remove(sku) if sku in favourites else favourites.append(sku)
        kept = await keep(request, {"favourites": favourites})
    return back(request, sku, notice=None if kept else "failed")


@routes.post("/checkout")
async def check_out(request: web.Request) -> web.Response:
    """An order that nobody charges or sends; a guest is asked to log in first."""
    if not customer(request):
        return see_other("/login")
    async with account_of(request):
        await keep(request, {"cart": []})
    return see_other("/cart", Notice("ordered"))


@routes.get("/login")
async def ask_for_login(request: web.Request) -> web.Response:
    return render(request, "login.html", names=list(customers), password=PASSWORD)


@routes.post("/login")
async def log_in(request: web.Request) -> web.Response:
    form = await request.post()
    name, password = str(form.get("name")), str(form.get("password"))
    if name not in customers or not hmac.compare_digest(password.encode(), PASSWORD.encode()):
        return render(request, "login.html", 422, names=list(customers), password=PASSWORD, wrong=True, asked=name)
    session = secrets.token_urlsafe()
    logins[session], stories[session] = name, await bring_along(request, name)
    answer = see_other("/cart")
    answer.set_cookie(SESSION_COOKIE, session, httponly=True, samesite="Lax")
    return answer


@routes.post("/logout")
async def log_out(request: web.Request) -> web.Response:
    logins.pop(request.cookies.get(SESSION_COOKIE, ""), None)
    sessions.guest(request).forget()  # else the next person at this computer has what the last one picked
    answer = see_other("/")
    answer.del_cookie(SESSION_COOKIE)
    return answer


def back(request: web.Request, sku: str, *, notice: str | None) -> web.Response:
    """To the piece, on the page that its form was on."""
    page = "/cart" if request.query.get("from") == "/cart" else "/"
    return see_other(f"{page}#{sku}", Notice(notice, sku) if notice else None)


def see_other(place: str, notice: Notice | None = None) -> web.Response:
    """The answer to a form: another page, so that reloading it sends nothing twice."""
    response = web.Response(status=303, headers={"Location": place})
    if notice:
        leave(response, notice)
    return response


@web.middleware
async def in_the_shop_s_look(request: web.Request, handler: Any) -> web.StreamResponse:
    """A refusal is a page of the shop too."""
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPClientError as error:
        response = render(request, "error.html", error.status)
        response.headers.extend({name: value for name, value in error.headers.items() if name == "Allow"})
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response


@web.middleware
async def same_origin(request: web.Request, handler: Any) -> web.StreamResponse:
    """Forms are taken from our own pages only (a Lax cookie alone lets a neighbouring subdomain post)."""
    if request.method == "POST" and request.headers.get("Origin") != f"{request.scheme}://{request.host}":
        raise web.HTTPForbidden
    allowed: web.StreamResponse = await handler(request)
    return allowed


def make_app() -> web.Application:
    app = web.Application()
    sessions.setup(app)  # first, since every page shows who the guest is
    app.middlewares.extend([in_the_shop_s_look, same_origin])
    app.add_routes(routes)
    app.router.add_static("/static", HERE / "static")
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(sys.argv[1]), print=None)
