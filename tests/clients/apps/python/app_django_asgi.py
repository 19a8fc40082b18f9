"""Django with asynchronous views, under ASGI: `python app_django_asgi.py PORT`."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import uvicorn
from common import CACHING, account, problem, report, shown, store
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.utils.decorators import async_only_middleware

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django_guests.middleware", f"{__name__}.logging_middleware"],
)

from django_guests import sessions  # noqa: E402  (Django's settings come first)
from guest_sessions import GuestError  # noqa: E402

lock = asyncio.Lock()
View = Callable[[HttpRequest], Awaitable[HttpResponseBase]]


@async_only_middleware  # type: ignore[untyped-decorator]
def logging_middleware(get_response: View) -> View:
    """Another middleware between the guest's and the view, as applications have them."""

    async def handle(request: HttpRequest) -> HttpResponseBase:
        return await get_response(request)

    return handle


def refusing(view: View) -> View:
    async def handle(request: HttpRequest) -> HttpResponseBase:
        try:
            return await view(request)
        except GuestError as error:
            status, body = problem(error)
            return JsonResponse(body, status=status)

    return handle


async def page(request: HttpRequest) -> JsonResponse:
    return JsonResponse(shown(sessions.aguest(request)))


async def cached_page(request: HttpRequest) -> JsonResponse:
    return JsonResponse(shown(sessions.aguest(request)), headers={"Cache-Control": CACHING[request.path[1:]]})


async def replace(request: HttpRequest) -> JsonResponse:
    await sessions.aguest(request).replace(json.loads(request.body))
    return await page(request)


async def patch(request: HttpRequest) -> JsonResponse:
    await sessions.aguest(request).patch(json.loads(request.body))
    return await page(request)


async def apply(request: HttpRequest) -> JsonResponse:
    await sessions.aguest(request).apply(json.loads(request.body))
    return await page(request)


async def twice(request: HttpRequest) -> JsonResponse:
    for merge_patch in json.loads(request.body):
        await sessions.aguest(request).patch(merge_patch)
    return await page(request)


async def change(request: HttpRequest) -> JsonResponse:
    asked = json.loads(request.body)
    await getattr(sessions.aguest(request), asked["method"])(asked["change"], **asked["options"])
    return await page(request)


async def login(request: HttpRequest) -> JsonResponse:
    async with lock:
        result = await sessions.aguest(request).hand_over(account, **json.loads(request.body))
        store(result.payload)
    return JsonResponse(report(result))


async def logout(request: HttpRequest) -> JsonResponse:
    sessions.aguest(request).forget()
    return JsonResponse({})


async def fail(request: HttpRequest) -> HttpResponse:
    await sessions.aguest(request).replace(json.loads(request.body))
    return HttpResponse("the application failed", status=500)


async def fail_login(request: HttpRequest) -> HttpResponse:
    await sessions.aguest(request).hand_over(account)
    raise RuntimeError("the account could not be stored")


async def late(request: HttpRequest) -> StreamingHttpResponse:
    async def body() -> AsyncIterator[str]:
        yield "started "
        try:
            await sessions.aguest(request).replace(json.loads(request.body))
        except GuestError as error:
            yield error.code

    return StreamingHttpResponse(body())


urlpatterns = [
    path("", page),
    path("public", cached_page),
    path("no-store", cached_page),
    *(
        path(view.__name__.replace("_", "-"), refusing(view))
        for view in (replace, patch, apply, twice, change, login, logout, fail, fail_login, late)
    ),
]
app = get_asgi_application()

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", lifespan="off")
