"""What the applications of all frameworks share: the client's settings, the account, and how things become JSON."""

import os
from typing import Any, TypedDict

from guest_sessions import AsyncGuest, Guest, GuestError, HandOver

AnyGuest = AsyncGuest[dict[str, Any]] | Guest[dict[str, Any]]


class Settings(TypedDict):
    url: str
    issuer: list[str]
    cookie: list[str] | None
    cookie_domain: str | None
    api_key: str | None
    renew_after_s: int


SETTINGS: Settings = {
    "url": os.environ["GUEST_URL"],
    "issuer": os.environ["GUEST_ISSUER"].split(","),
    "cookie": os.environ["GUEST_COOKIE_NAME"].split(",") if os.environ.get("GUEST_COOKIE_NAME") else None,
    "cookie_domain": os.environ.get("GUEST_COOKIE_DOMAIN"),
    "api_key": os.environ.get("GUEST_API_KEY"),
    "renew_after_s": int(os.environ.get("GUEST_RENEW_AFTER", "86400")),
}
CACHING = {"public": "public, max-age=60, s-maxage=600", "no-store": "no-store"}

account: dict[str, Any] = {"name": "Ada", "cart": []}


def store(payload: dict[str, Any]) -> None:
    account.clear()
    account.update(payload)


def shown(guest: AnyGuest) -> dict[str, Any]:
    members = {"id": guest.id, "version": guest.version, "payload": guest.payload, "is_new": guest.is_new}
    return {"guest": members if guest.id else None}


def report(result: HandOver) -> dict[str, Any]:
    return {
        "session": result.payload,
        "merged": result.merged,
        "guests": result.guests,
        "skipped": result.skipped,
        "unexpected": result.unexpected_guest,
    }


def problem(error: GuestError) -> tuple[int, dict[str, Any]]:
    status = {"unavailable": 503, "unreadable_guest": 503, "stale_token": 409, "patch_conflict": 409}
    return status.get(error.code, 422), {"code": error.code, "message": error.message, "facts": dict(error.facts)}
