"""What only the Python client has: payload types, blocking and awaiting, event loops that end."""

import asyncio
import copy
import json
import pickle
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypedDict

import guest_sessions
import httpx
import msgspec
import pydantic
import pytest
from guest_sessions import AsyncGuest, GuestError, HandOver
from guest_sessions.asgi import GuestSessions
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from tests.clients.stage import staged
from tests.gateways.front import Front, front
from tests.gateways.guest_service import ISSUER, GuestService, guest_service
from tests.gateways.processes import send, wait_until

NAVIGATION = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


class Line(msgspec.Struct):
    sku: str
    quantity: int = 1


class StructShop(msgspec.Struct):
    cart: list[Line] = []


class ModelLine(pydantic.BaseModel):
    sku: str
    quantity: int = 1


class ModelShop(pydantic.BaseModel):
    cart: list[ModelLine] = []


@dataclass
class DataLine:
    sku: str
    quantity: int = 1


@dataclass
class DataShop:
    cart: list[DataLine] = field(default_factory=list)


class DictShop(TypedDict, total=False):
    cart: list[dict[str, Any]]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuestService]:
    with guest_service(tmp_path_factory.mktemp("service")) as started:
        yield started


def shop(sessions: GuestSessions[Any], *, change: Any = None) -> Starlette:
    """An application that replaces the payload by `change`, where there is one, and shows it as its type's repr."""

    async def page(request: Request) -> JSONResponse:
        guest = sessions.guest(request)
        assert guest is request.state.guest
        if change is not None:
            await guest.replace(change)
        return JSONResponse({"payload": repr(guest.payload), "id": guest.id})

    return Starlette(routes=[Route("/", page)], middleware=[Middleware(sessions.middleware)])


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        pytest.param(StructShop, StructShop([Line("cup")]), id="msgspec"),
        pytest.param(ModelShop, ModelShop(cart=[ModelLine(sku="cup")]), id="pydantic"),
        pytest.param(DataShop, DataShop([DataLine("cup")]), id="dataclass"),
        pytest.param(DictShop, {"cart": [{"sku": "cup", "quantity": 1}]}, id="TypedDict"),
    ],
)
def test_a_payload_is_of_the_type_that_was_given(service: GuestService, kind: type[Any], change: Any) -> None:
    sessions = GuestSessions(f"http://{service.address}", issuer=ISSUER, payload=kind)
    with TestClient(shop(sessions, change=change), base_url="https://shop.example") as client:
        assert client.get("/").json()["payload"] == repr(change)
    with TestClient(shop(sessions), base_url="https://shop.example") as client:
        assert client.get("/").json()["payload"] == repr(kind())
        token = service.issue(payload={"cart": [{"sku": "cup", "quantity": 1}]})["token"]
        assert client.get("/", headers={"Cookie": f"__Host-guest={token}"}).json()["payload"] == repr(change)


@pytest.mark.parametrize("kind", [StructShop, ModelShop, DataShop], ids=["msgspec", "pydantic", "dataclass"])
def test_a_payload_of_another_shape_is_an_error_with_a_code(service: GuestService, kind: type[Any]) -> None:
    sessions = GuestSessions(f"http://{service.address}", issuer=ISSUER, payload=kind)
    token = service.issue(payload={"cart": 7})["token"]
    with TestClient(shop(sessions)) as client, pytest.raises(GuestError) as raised:
        client.get("/", headers={"Cookie": f"__Host-guest={token}"})
    assert raised.value.code == "invalid_payload"


def test_a_site_in_frames_has_guests_there_and_deletes_their_cookie_there(service: GuestService) -> None:
    sessions = GuestSessions(f"http://{service.address}", issuer=ISSUER, cookie_partitioned=True)

    async def page(request: Request) -> JSONResponse:
        if request.method == "POST":
            sessions.guest(request).forget()
        return JSONResponse({"id": sessions.guest(request).id})

    app = Starlette(routes=[Route("/", page, methods=["GET", "POST"])], middleware=[Middleware(sessions.middleware)])
    frame = NAVIGATION | {"Sec-Fetch-Dest": "iframe"}
    with TestClient(app) as client:
        assert client.get("/", headers=frame).json()["id"].startswith("G-")
        [deletion] = client.post("/").headers.get_list("Set-Cookie")
    assert set(deletion.split("; ")) == {
        "__Host-guest=",
        "Path=/",
        "Max-Age=0",
        "HttpOnly",
        "SameSite=None",
        "Partitioned",
        "Secure",
    }


def test_what_is_no_json_is_the_application_s_fault_and_no_outage(service: GuestService) -> None:
    sessions = GuestSessions(f"http://{service.address}", issuer=ISSUER)
    with TestClient(shop(sessions, change={"seen": object()})) as client, pytest.raises(TypeError):
        client.get("/")
    with TestClient(shop(sessions)) as client:
        assert client.get("/", headers=NAVIGATION).json()["id"].startswith("G-")


def test_the_client_outlives_its_event_loop(service: GuestService) -> None:
    sessions = GuestSessions(f"http://{service.address}", issuer=ISSUER)
    transport = httpx.ASGITransport(shop(sessions))

    async def page() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            response = await client.get("/", headers=NAVIGATION)
        await sessions.close()
        return response

    assert all("Set-Cookie" in asyncio.run(page()).headers for _ in range(2))


def test_an_event_loop_that_ends_closes_its_connections(service: GuestService) -> None:
    """Under WSGI each asynchronous view runs in one of its own."""
    sessions = GuestSessions(f"http://{service.address}", issuer=ISSUER)
    transport = httpx.ASGITransport(shop(sessions))

    async def page() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            assert "Set-Cookie" in (await client.get("/", headers=NAVIGATION)).headers

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    asyncio.run(page())
    before = open_files()
    for _ in range(10):
        asyncio.run(page())
    assert open_files() < before + 5  # the thread that follows the keys may have one more
    asyncio.run(sessions.close())


def test_a_visitor_who_leaves_does_not_cancel_the_exchange(service: GuestService) -> None:
    """httpx may never free the place in its pool of a request that is cancelled, and there are 100."""

    async def leave(before: Front) -> asyncio.Task[Any]:
        sessions = GuestSessions(before.url, issuer=ISSUER)
        transport = httpx.ASGITransport(shop(sessions))
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            await client.get("/")
            await asyncio.to_thread(wait_until, lambda: before.asked, what="the keys were fetched")
            before.state = "silent"
            visit = asyncio.create_task(client.get("/", headers=NAVIGATION))
            await asyncio.to_thread(wait_until, lambda: "/v1/issue" in before.asked, what="the service was asked")
            visit.cancel()
            await asyncio.wait([visit])
            [exchange] = asyncio.all_tasks() - {asyncio.current_task()}
            before.state = "open"
            await asyncio.wait([exchange])
            await sessions.close()
        return exchange

    with front(service) as before:
        exchange = asyncio.run(leave(before))
    assert not exchange.cancelled()


TOKEN_OBJECT = {"token": "x", "subject": "G-1", "version": 1, "issued_at": 1, "first_issued_at": 1, "payload": {}}


@pytest.mark.parametrize(
    "wrong",
    [{"token": 1}, {"subject": None}, {"version": "1"}, {"issued_at": None}, {"first_issued_at": {}}, {"payload": []}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_response_with_members_of_other_types_is_an_outage(service: GuestService, wrong: dict[str, Any]) -> None:
    with front(service) as before, TestClient(shop(GuestSessions(before.url, issuer=ISSUER))) as client:
        client.get("/")
        wait_until(lambda: before.asked, what="the keys were fetched")
        before.state = json.dumps(TOKEN_OBJECT | wrong)
        response = client.get("/", headers=NAVIGATION)
        assert "/v1/issue" in before.asked
    assert (response.json()["id"], response.headers.get("Set-Cookie")) == (None, None)


@pytest.mark.parametrize("payload", [None, [], "x"], ids=repr)
def test_a_merge_without_a_session_leaves_the_session(service: GuestService, payload: Any) -> None:
    async def hand_over(sessions: GuestSessions[Any], before: Front) -> HandOver:
        result: list[HandOver] = []

        async def login(request: Request) -> JSONResponse:
            report = {"merged": True, "guests": [], "skipped": [], "conflicts": [], "next": None}
            before.state = json.dumps(report | {"payload": payload})
            result.append(await sessions.guest(request).hand_over({"name": "Ada"}, tokens=["x"]))
            return JSONResponse({})

        app = Starlette(routes=[Route("/", login)], middleware=[Middleware(sessions.middleware)])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
            await client.get("/")
        await sessions.close()
        return result[0]

    with front(service) as before:
        result = asyncio.run(hand_over(GuestSessions(before.url, issuer=ISSUER), before))
    assert (result.payload, result.merged) == ({"name": "Ada"}, False)
    assert result.error is not None
    assert result.error.code == "unavailable"


def test_one_thread_follows_the_keys_until_the_application_ends(service: GuestService) -> None:
    sessions = GuestSessions(f"http://{service.address}", issuer=ISSUER)

    def followers() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name == "guest-sessions-keys"]

    before = set(followers())
    with TestClient(shop(sessions)) as client:
        for _ in range(3):
            client.get("/", headers=NAVIGATION)
        [own] = set(followers()) - before
    own.join(10)
    assert not own.is_alive()


def test_a_websocket_has_its_guest(service: GuestService) -> None:
    sessions = GuestSessions(f"http://{service.address}", issuer=ISSUER)

    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        guest: AsyncGuest[dict[str, Any]] = sessions.guest(socket)
        try:
            await guest.patch({"seen": 1})
        except GuestError as error:
            await socket.send_json({"id": guest.id, "code": error.code})
        await socket.close()

    app = Starlette(routes=[WebSocketRoute("/", talk)], middleware=[Middleware(sessions.middleware)])
    guest = service.issue()
    headers = {"Cookie": f"__Host-guest={guest['token']}"}
    with TestClient(app) as client, client.websocket_connect("/", headers=headers) as socket:
        assert socket.receive_json() == {"id": guest["subject"], "code": "response_started"}


def test_an_api_key_that_no_header_can_carry_is_refused_without_being_shown() -> None:
    with pytest.raises(ValueError, match="no header can carry") as raised:
        GuestSessions("http://127.0.0.1", issuer=ISSUER, api_key="secret\nkey")
    assert "secret" not in str(raised.value)


def test_an_error_can_be_copied_and_pickled() -> None:
    error = GuestError("token_too_large", "too large", {"bytes": 4000, "limit": 3800})
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301
        assert (twin.code, twin.message, twin.facts) == (error.code, error.message, error.facts)
    assert str(error) == "token_too_large: too large"


def test_the_package_is_typed_and_stands_alone() -> None:
    package = resources.files(guest_sessions)
    assert (package / "py.typed").is_file()
    assert "site-packages" in str(package)  # the wheel, not the source tree
    sources = [path.read_text() for path in Path(str(package)).glob("*.py")]
    assert not any("import service" in source or "from service" in source for source in sources)


def test_aiohttp_may_respond_before_the_guest_s_middleware(service: GuestService, tmp_path: Path) -> None:
    with staged("aiohttp", service, tmp_path) as app:
        assert send(app.port, "/closed").status == 302
