"""Two replicas behind each balancer: requests that name the same guest reach the same replica."""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.balancers import BALANCERS
from tests.gateways.guest_service import GuestService, guest_service
from tests.gateways.processes import Answer, send
from tests.gateways.test_guarding import Headers, cookie

GUESTS = 24  # all at one of two replicas by chance: once in eight million runs


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[GuestService]]:
    """Two with one keyring."""
    with contextlib.ExitStack() as life:
        keys = str(tmp_path_factory.mktemp("keys"))
        folders = [tmp_path_factory.mktemp("replica") for _ in range(2)]
        yield [life.enter_context(guest_service(folder, GUEST_KEYS_DIR=keys)) for folder in folders]


@pytest.fixture(scope="module", params=[*BALANCERS])
def port(
    request: pytest.FixtureRequest, replicas: list[GuestService], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """Where each balancer listens."""
    with BALANCERS[request.param](replicas, tmp_path_factory.mktemp("balancer")) as running:
        yield running.port


def served(replicas: Sequence[GuestService]) -> list[int]:
    """How many requests below /v1 each replica has answered with success."""
    counter = re.compile(r'^guest_sessions_requests_total{route="/v1/[a-z-]+",status="20."} (\d+)', re.MULTILINE)
    return [sum(map(int, counter.findall(send(each.port, "/metrics").body.decode()))) for each in replicas]


def served_since(before: list[int], replicas: Sequence[GuestService]) -> list[int]:
    return [now - then for now, then in zip(served(replicas), before, strict=True)]


def post(port: int, path: str, body: dict[str, Any], headers: Headers) -> Answer:
    headers = [("Content-Type", "application/json"), *headers]
    return send(port, path, method="POST", headers=headers, body=json.dumps(body).encode())


def change(port: int, guest: dict[str, Any], tab: str) -> dict[str, Any]:
    """The payload after a change of the guest's first token."""
    body = {"token": guest["token"], "merge_patch": {tab: True}}
    answer = post(port, "/v1/refresh-payload", body, [("X-Guest-Id", guest["subject"])])
    assert answer.status == 200
    payload: dict[str, Any] = answer.json()["payload"]
    return payload


def test_a_guest_stays_at_one_replica_and_keeps_every_change(port: int, replicas: list[GuestService]) -> None:
    homes = set()
    for guest in [replicas[0].issue() for _ in range(GUESTS)]:
        before = served(replicas)
        payloads = [change(port, guest, tab) for tab in "abc"]
        assert payloads[-1] == {"a": True, "b": True, "c": True}
        answered = served_since(before, replicas)
        assert sorted(answered) == [0, 3]
        homes.add(answered.index(3))
    assert homes == {0, 1}


def test_requests_that_name_no_guest_go_to_both(port: int, replicas: list[GuestService]) -> None:
    before = served(replicas)
    assert {post(port, "/v1/issue", {}, []).status for _ in range(GUESTS)} == {201}
    answered = served_since(before, replicas)
    assert sum(answered) == GUESTS
    assert min(answered) > 0


@pytest.mark.parametrize("carrier", ["cookie", "bearer"])
def test_haproxy_finds_the_guest_in_the_token(carrier: str, replicas: list[GuestService], tmp_path: Path) -> None:
    homes = set()
    with BALANCERS["haproxy"](replicas, tmp_path) as running:
        for guest in [replicas[0].issue() for _ in range(GUESTS)]:
            before = served(replicas)
            token = guest["token"]
            headers = cookie(token) if carrier == "cookie" else [("Authorization", f"Bearer {token}")]
            assert send(running.port, "/v1/auth", headers=headers).status == 200
            change(running.port, guest, "a")
            answered = served_since(before, replicas)
            assert sorted(answered) == [0, 2]
            homes.add(answered.index(2))
    assert homes == {0, 1}
