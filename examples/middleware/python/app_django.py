"""A small Django application with guest sessions: `python app_django.py PORT`."""

import json
import os
import sys
import threading
from typing import Any

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import path
from guest_sessions import GuestError
from guest_sessions.django import GuestSessions

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[f"{__name__}.middleware"],  # and Django's own; CsrfViewMiddleware among them
)
sessions = GuestSessions(
    os.environ["GUEST_URL"],
    issuer=os.environ["GUEST_ISSUER"],
    api_key=os.environ.get("GUEST_API_KEY"),
)
middleware = sessions.middleware
users: dict[str, dict[str, Any]] = {"ada": {"name": "Ada"}}
lock = threading.Lock()


def page(request: HttpRequest) -> JsonResponse:
    guest = sessions.guest(request)
    return JsonResponse({"guest": guest.id, "cart": guest.payload.get("cart", [])})


def cart(request: HttpRequest) -> JsonResponse:
    guest = sessions.guest(request)
    try:
        guest.patch({"cart": [*guest.payload.get("cart", []), json.loads(request.body)]}, policy="cart")
    except GuestError as error:
        status = 503 if error.code == "unavailable" else 422
        return JsonResponse({"code": error.code, "detail": error.message}, status=status)
    return page(request)


def login(request: HttpRequest) -> JsonResponse:
    with lock:  # in a database a transaction: read, hand over and store are one step
        result = sessions.guest(request).hand_over(users["ada"], policy="cart")
        users["ada"] = result.payload
    return JsonResponse({"session": result.payload, "merged": result.merged})


def logout(request: HttpRequest) -> JsonResponse:
    sessions.guest(request).forget()
    return JsonResponse({})


urlpatterns = [path("", page), path("cart", cart), path("login", login), path("logout", logout)]

if __name__ == "__main__":
    execute_from_command_line(["app_django.py", "runserver", "--noreload", f"127.0.0.1:{sys.argv[1]}"])
