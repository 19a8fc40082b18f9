"""A line about what the last form did: a short-lived cookie carries it to the next page, so nothing is kept here."""

from dataclasses import dataclass

from aiohttp import web
from catalog import CATALOG, MOST_OF_A_PIECE

COOKIE = "shop_notice"
WORDS = {
    "added": "{name} added",
    "less": "One {name} less",
    "gone": "{name} taken out",
    "most": f"{MOST_OF_A_PIECE} is the most in one order",
    "failed": "Not saved. Your picks are safe; please try again in a minute.",
    "ordered": "Thank you. This is a demo: nothing was charged, nothing ships, and your cart is empty again.",
}


@dataclass(frozen=True)
class Notice:
    kind: str
    sku: str = ""

    @property
    def words(self) -> str:
        name = CATALOG[self.sku].name if self.sku else ""
        return WORDS[self.kind].format(name=name)

    @property
    def counts(self) -> bool:
        """Whether the number of pieces in the cart belongs behind it."""
        return self.kind in {"added", "less", "gone"}


def leave(response: web.Response, notice: Notice) -> None:
    """For the next page that shows notices."""
    response.set_cookie(COOKIE, f"{notice.kind}.{notice.sku}", max_age=60, httponly=True, samesite="Lax")


def left(request: web.Request) -> Notice | None:
    """What was left; None too for a cookie that this module did not write."""
    kind, _, sku = request.cookies.get(COOKIE, "").partition(".")
    return Notice(kind, sku) if kind in WORDS and (sku in CATALOG or kind == "ordered") else None
