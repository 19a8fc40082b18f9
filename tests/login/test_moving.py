"""Guests of other systems come along, as docs/moving.md says: once, however often they are imported."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.guest_service import GuestService, guest_service

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples/moving/import_guests.py"
API_KEY = "an-api-key-of-the-example"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuestService]:
    with guest_service(tmp_path_factory.mktemp("service"), GUEST_API_KEYS=API_KEY) as started:
        yield started


def imported(service: GuestService, guests: list[dict[str, Any]], *, api_key: str = API_KEY) -> tuple[int, list[Any]]:
    """The script's exit code and what it prints, line by line."""
    done = subprocess.run(  # noqa: S603  (our own script)
        [sys.executable, SCRIPT, f"http://{service.address}"],
        input="".join(f"{json.dumps(guest)}\n" for guest in guests),
        env=os.environ | {"GUEST_API_KEY": api_key},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def guest(number: int, **payload: Any) -> dict[str, Any]:
    return {"subject": f"anon@{number}", "first_issued_at": 1_767_225_600 + number, "payload": payload}


def merged(service: GuestService, tokens: list[str]) -> Any:
    answer = service.post("/v1/merge", {"tokens": tokens, "policy": "cart"})
    assert answer.status == 200, answer
    return answer.json()


def test_the_pages_request_imports_one_guest_once(service: GuestService) -> None:
    page = (ROOT / "docs/moving.md").read_text()
    [block] = re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)

    first, second = service.issue(**json.loads(block)), service.issue(**json.loads(block))

    assert (first["version"], first["first_issued_at"]) == (1, 1_767_225_600)
    answer = merged(service, [first["token"], second["token"]])
    assert answer["payload"]["cart"] == [{"sku": "cup", "qty": 2}]
    assert len(answer["guests"]) == 1


def test_a_table_that_is_imported_twice_gives_the_same_guests(service: GuestService) -> None:
    table = [guest(number, cart=[{"sku": "cup", "qty": number}]) for number in range(1, 21)]

    runs = [imported(service, table) for _ in range(2)]

    for code, lines in runs:
        assert code == 0
        assert [line["subject"] for line in lines] == [each["subject"] for each in table]
    answer = merged(service, [lines[3]["token"] for _, lines in runs])
    assert answer["payload"]["cart"] == [{"sku": "cup", "qty": 4}]
    assert [each["subject"] for each in answer["guests"]] == ["anon@4"]


def test_a_guest_that_does_not_fit_is_reported_and_the_rest_come(service: GuestService) -> None:
    code, lines = imported(service, [guest(1), guest(2, note="x" * 4000), guest(3)])
    assert code == 1
    assert [line.get("code") for line in lines] == [None, "token_too_large", None]


def test_a_wrong_api_key_is_no_guests_fault(service: GuestService) -> None:
    code, lines = imported(service, [guest(1)], api_key="not-the-key-of-the-service")
    assert (code, lines) == (1, [])
