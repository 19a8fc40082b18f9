"""Django with synchronous views, under WSGI: `python app_django_wsgi.py PORT`."""

import json
import sys
import threading
from collections.abc import Callable, Iterator

from common import CACHING, account, problem, report, shown, store
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.urls import path
from gunicorn.app.base import BaseApplication

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django_guests.middleware", f"{__name__}.refuse"],
)

from django_guests import sessions  # noqa: E402  (Django's settings come first)
from guest_sessions import GuestError  # noqa: E402

lock = threading.Lock()


class refuse:  # noqa: N801  (named like a function in MIDDLEWARE)
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_exception(self, _: HttpRequest, error: Exception) -> JsonResponse | None:
        if not isinstance(error, GuestError):
            return None
        status, body = problem(error)
        return JsonResponse(body, status=status)


def page(request: HttpRequest) -> JsonResponse:
    return JsonResponse(shown(sessions.guest(request)))


def cached_page(request: HttpRequest) -> JsonResponse:
    return JsonResponse(shown(sessions.guest(request)), headers={"Cache-Control": CACHING[request.path[1:]]})


def replace(request: HttpRequest) -> JsonResponse:
    sessions.guest(request).replace(json.loads(request.body))
    return page(request)


def patch(request: HttpRequest) -> JsonResponse:
    sessions.guest(request).patch(json.loads(request.body))
    return page(request)


def apply(request: HttpRequest) -> JsonResponse:
    sessions.guest(request).apply(json.loads(request.body))
    return page(request)


def twice(request: HttpRequest) -> JsonResponse:
    for merge_patch in json.loads(request.body):
        sessions.guest(request).patch(merge_patch)
    return page(request)


def change(request: HttpRequest) -> JsonResponse:
    asked = json.loads(request.body)
    getattr(sessions.guest(request), asked["method"])(asked["change"], **asked["options"])
    return page(request)


def login(request: HttpRequest) -> JsonResponse:
    with lock:
        result = sessions.guest(request).hand_over(account, **json.loads(request.body))
        store(result.payload)
    return JsonResponse(report(result))


def logout(request: HttpRequest) -> JsonResponse:
    sessions.guest(request).forget()
    return JsonResponse({})


def fail(request: HttpRequest) -> HttpResponse:
    sessions.guest(request).replace(json.loads(request.body))
    return HttpResponse("the application failed", status=500)


def fail_login(request: HttpRequest) -> HttpResponse:
    sessions.guest(request).hand_over(account)
    raise RuntimeError("the account could not be stored")


def late(request: HttpRequest) -> StreamingHttpResponse:
    def body() -> Iterator[str]:
        yield "started "
        try:
            sessions.guest(request).replace(json.loads(request.body))
        except GuestError as error:
            yield error.code

    return StreamingHttpResponse(body())


class Server(BaseApplication):  # type: ignore[misc]
    """As in production: Python's own wsgiref, which `runserver` uses, strips white space that is none in a header."""

    def load_config(self) -> None:
        options = {"bind": f"127.0.0.1:{sys.argv[1]}", "threads": 24, "control_socket_disable": True}
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> WSGIHandler:
        return get_wsgi_application()


urlpatterns = [
    path("", page),
    path("public", cached_page),
    path("no-store", cached_page),
    *(
        path(view.__name__.replace("_", "-"), view)
        for view in (replace, patch, apply, twice, change, login, logout, fail, fail_login, late)
    ),
]

if __name__ == "__main__":
    Server().run()
