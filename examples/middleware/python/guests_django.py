"""Guest sessions for Django: copy this file and `guests.py`, name `guests_django.middleware` in MIDDLEWARE.

Settings: GUEST_URL, GUEST_ISSUER, GUEST_COOKIE_NAME, GUEST_API_KEY (or None), GUEST_RENEW_AFTER (seconds). Needs
`httpx`. `request.guest` then has the guest's `claims` or None; `save` writes the payload, `hand_over` merges it at
login.
"""

import functools
import threading
import time
from collections.abc import Callable, Coroutine
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import guests
import httpx
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.cache import patch_cache_control


class GuestSessions(guests.GuestSessions):
    async def send(self, path: str, body: bytes | None) -> tuple[Any, list[str]]:
        response = HTTP.request("POST" if body else "GET", path, content=body)  # noqa: ASYNC212  (blocks, as the views do)
        return response.json(), response.headers.get_list("Set-Cookie")


SESSIONS = GuestSessions(
    settings.GUEST_URL,
    issuer=settings.GUEST_ISSUER,
    cookie=settings.GUEST_COOKIE_NAME,
    api_key=settings.GUEST_API_KEY,
    renew_after_s=settings.GUEST_RENEW_AFTER,
)
JAR = CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # one guest's cookie is not for the next
HTTP = httpx.Client(base_url=SESSIONS.url, headers=SESSIONS.headers, timeout=3, cookies=JAR)


class Guest(guests.Guest):
    def save(self, payload: dict[str, Any]) -> None:  # views are synchronous
        run(super().save(payload))

    def hand_over(self, session: dict[str, Any], **options: Any) -> dict[str, Any]:
        return run(super().hand_over(session, **options))


def middleware(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    def handle(request: HttpRequest) -> HttpResponse:
        start_following_keys()
        request.guest = Guest(SESSIONS, request.method, request.headers, request.headers.get("Cookie", ""))
        run(request.guest.ensure())
        response = get_response(request)
        for line in request.guest.set_cookies if response.status_code < 500 else []:  # else the guest is as it was
            response.cookies.load(line)
            patch_cache_control(response, private=True)  # Django's own cache would give the guest to others
        return response

    return handle


def run(steps: Coroutine[Any, None, Any]) -> Any:
    """What the coroutine returns, which never waits for an event loop, as `send` blocks."""
    try:
        steps.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a coroutine waits, and nobody would wake it")


@functools.cache  # once in each process, after it was forked
def start_following_keys() -> None:
    threading.Thread(target=follow_keys, daemon=True).start()


def follow_keys() -> None:
    while True:  # without an event loop: under gevent all requests would be in it, where the ORM refuses to work
        run(SESSIONS.fetch_keys())
        time.sleep(5)
