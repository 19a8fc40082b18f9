"""A small Django application with guest sessions: `python app_django.py PORT`."""

import json
import os
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import path
from guests import NotSaved

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["guests_django.middleware"],  # and Django's own, as ever; CsrfViewMiddleware among them
    GUEST_URL=os.environ["GUEST_URL"],
    GUEST_ISSUER=os.environ["GUEST_ISSUER"].replace(" ", "").split(","),
    GUEST_COOKIE_NAME=os.environ.get("GUEST_COOKIE_NAME", "__Host-guest"),
    GUEST_API_KEY=os.environ.get("GUEST_API_KEY"),
    GUEST_RENEW_AFTER=int(os.environ.get("GUEST_RENEW_AFTER", "2592000")),  # browsers forget a cookie after 400 days
)

users = {"ada": {"name": "Ada"}}


def page(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"guest": request.guest.claims})


def cart(request: HttpRequest) -> JsonResponse:
    try:
        request.guest.save({"cart": json.loads(request.body)})
    except NotSaved as error:
        return JsonResponse({"detail": str(error)}, status=503)
    return JsonResponse({"guest": request.guest.claims})


def login(request: HttpRequest) -> JsonResponse:
    merge = request.guest.hand_over(users["ada"])
    users["ada"] = merge["payload"]
    return JsonResponse({"session": users["ada"], "merged": merge["merged"]})


urlpatterns = [path("", page), path("cart", cart), path("login", login)]

if __name__ == "__main__":
    execute_from_command_line(["app_django.py", "runserver", "--noreload", f"127.0.0.1:{sys.argv[1]}"])
