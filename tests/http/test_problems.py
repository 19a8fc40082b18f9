"""Request ids, and the line in the log that each failed request gets."""

import logging
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from service.config import Settings
from service.http.auth import ApiKeyAuth
from service.http.metrics import Metrics
from service.http.protocol import Runner
from service.http.request import BodyReader
from service.http.response import Response
from service.http.routing import Routing
from tests.api import Answer, Api
from tests.conftest import MakeApi
from tests.doubles import HandClock
from tests.security.heads import get
from tests.security.wire import exchange

GIVEN = {"X-Request-Id": "trace-1.A_b"}


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The lines of failed requests."""
    names = ("levelname", "status", "method", "route", "request_id", "code")
    return [
        {name: vars(record).get(name) for name in names}
        for record in caplog.records
        if record.message == "request failed"
    ]


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/issue", 201),
        ("POST", "/v1/verify", 422),
        ("GET", "/v1/auth?mode=ensure", 200),
        ("GET", "/v1/auth", 401),
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/issue", 405),
    ],
)
async def test_a_given_request_id_is_echoed(api: Api, method: str, path: str, status: int) -> None:
    answer = await api.ask(method, path, headers=GIVEN)

    assert (answer.status, answer.headers.getall("X-Request-Id")) == (status, ["trace-1.A_b"])


@pytest.mark.parametrize("path", ["/.well-known/jwks.json", "/.well-known/openid-configuration", "/docs"])
async def test_what_caches_share_carries_no_request_id(api: Api, path: str) -> None:
    answer = await api.get(path, headers=GIVEN)

    assert answer.headers["Cache-Control"].startswith("public")
    assert "X-Request-Id" not in answer.headers


async def test_a_304_carries_no_request_id(api: Api) -> None:
    etag = (await api.get("/.well-known/jwks.json")).headers["ETag"]

    answer = await api.get("/.well-known/jwks.json", headers={**GIVEN, "If-None-Match": etag})

    assert answer.status == 304
    assert "X-Request-Id" not in answer.headers


@pytest.mark.parametrize(
    ("given", "echoed"),
    [("a", True), ("a" * 128, True), ("a" * 129, False), ("a b", False), ("a/b", False), ("ä", False), ("", False)],
    ids=["one", "128", "129", "space", "slash", "beyond ASCII", "empty"],
)
async def test_only_a_well_formed_request_id_is_echoed(api: Api, given: str, echoed: bool) -> None:  # noqa: FBT001
    good = await api.get("/healthz", headers={"X-Request-Id": given})
    bad = await api.get("/v1/nothing", headers={"X-Request-Id": given})

    assert good.headers.get("X-Request-Id") == (given if echoed else None)
    assert bad.json["request_id"] == bad.headers["X-Request-Id"]
    assert (bad.json["request_id"] == given) is echoed


async def test_a_caller_s_mistake_is_one_line_at_debug(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    await api.post("/v1/verify", {"token": 5}, headers=GIVEN)
    answer = await api.get("/v1/nothing")
    await api.get("/v1/auth", headers=GIVEN)

    assert lines(caplog) == [
        {
            "levelname": "DEBUG",
            "status": 422,
            "method": "POST",
            "route": "/v1/verify",
            "request_id": "trace-1.A_b",
            "code": "invalid_request",
        },
        {
            "levelname": "DEBUG",
            "status": 404,
            "method": "GET",
            "route": None,
            "request_id": answer.json["request_id"],
            "code": "not_found",
        },
        {
            "levelname": "DEBUG",
            "status": 401,
            "method": "GET",
            "route": "/v1/auth",
            "request_id": "trace-1.A_b",
            "code": None,
        },
    ]


async def test_what_is_no_request_is_one_line_at_debug(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    reply = await exchange(api, b"nonsense\r\n\r\n")

    [line] = lines(caplog)
    assert (line["levelname"], line["status"], line["code"]) == ("DEBUG", 400, "malformed_request")
    assert line["request_id"] == reply.json["request_id"]


async def test_a_head_that_does_not_end_is_one_line_at_debug(
    make_api: MakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    api = await make_api(head_timeout_s=0.05)

    reply = await exchange(api, get()[:-2])

    [line] = lines(caplog)
    assert (line["levelname"], line["status"], line["code"]) == ("DEBUG", 408, "request_timeout")
    assert line["request_id"] == reply.json["request_id"]


async def test_a_failure_of_the_service_is_one_line_at_error(
    make_api: MakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    api = await make_api(
        GUEST_KEYS_DIR="none", GUEST_REDIS_URL="unix:///nonexistent/redis.sock", GUEST_KEYS_SECRET="A" * 43
    )

    answer = await api.post("/v1/issue", {}, headers=GIVEN)

    [line] = lines(caplog)
    assert answer.status == 503
    assert (line["levelname"], line["code"], line["request_id"]) == ("ERROR", "not_ready", "trace-1.A_b")


async def broken(_request: web.Request) -> Response:
    raise RuntimeError("a bug with secret facts")


async def test_a_bug_is_a_plain_500_and_one_line_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    auth = ApiKeyAuth(Settings.from_mapping({}).access, clock=HandClock())
    routing = Routing(auth=auth, bodies=BodyReader(), metrics=Metrics(dict))
    app = web.Application()
    app.add_routes([routing.get("/broken", broken)])
    runner = Runner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with aiohttp.ClientSession() as session:
        address = f"http://127.0.0.1:{runner.addresses[0][1]}/broken"
        async with session.get(address, headers=GIVEN) as response:
            answer = Answer(response, await response.read())
    await runner.cleanup()

    assert (answer.status, answer.json["code"], answer.json["request_id"]) == (500, "internal_error", "trace-1.A_b")
    assert b"secret" not in answer.body
    [line] = lines(caplog)
    assert (line["levelname"], line["status"], line["route"]) == ("ERROR", 500, "/broken")
    assert "RuntimeError: a bug with secret facts" in caplog.text
