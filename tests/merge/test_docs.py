import contextlib
import json
import re
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from service.merge.handover import Candidate, merge_guests
from service.merge.policy import PROTECTED
from service.merge.policy_parser import compile_policy, parse_policy_file
from service.merge.presets import SHIPPED
from service.merge.three_ways import merge
from service.strict_json import equal
from service.tokens.claims import GuestClaims

PAGE = (Path(__file__).parents[2] / "docs" / "merging.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


DOCUMENTS = [json.loads(block) for block in blocks("json")]
HANDOVERS = [document for document in DOCUMENTS if "guest" in document]
RACES = [document for document in DOCUMENTS if "base" in document]
POLICIES = [document for document in DOCUMENTS if "result" not in document]


def guest(payload: dict[str, Any], *, subject: str = "G-1") -> GuestClaims:
    return GuestClaims("https://guests.example", subject, (), 1, 2, 1, "t", 1, payload)


@pytest.mark.parametrize("example", HANDOVERS, ids=lambda example: json.dumps(example["policy"])[:60])
def test_a_recipe_gives_what_the_page_says(example: dict[str, Any]) -> None:
    candidates = [Candidate(0, guest(example["guest"]))]

    result = merge_guests(example["session"], candidates, compile_policy(example["policy"]))

    payload = {name: value for name, value in result.payload.items() if name != "merged_guests"}
    assert equal(payload, example["result"]), payload
    if "conflicts" in example:
        conflicts = [
            {"path": each.path, "session": each.session, "guest": each.guest, "kept": each.kept, "rule": each.rule}
            for each in result.conflicts
        ]
        assert equal(conflicts, example["conflicts"]), conflicts


@pytest.mark.parametrize("example", RACES, ids=lambda example: json.dumps(example["policy"])[:60])
def test_a_race_ends_as_the_page_says(example: dict[str, Any]) -> None:
    merged = merge(example["base"], example["mine"], example["theirs"], compile_policy(example["policy"]))

    assert equal(merged, example["result"]), merged


def test_the_page_has_recipes_policies_and_a_race() -> None:
    assert len(HANDOVERS) >= 8
    assert len(RACES) >= 1
    assert [compile_policy(document) for document in POLICIES]
    assert all(parse_policy_file(block.encode(), format="toml") for block in blocks("toml"))


def test_three_devices_that_log_in_at_once_all_bring_their_cart(tmp_path: Path) -> None:
    (recipe,) = blocks("python")
    names: dict[str, Any] = {"json": json}
    exec(compile(recipe, "docs/merging.md", "exec"), names)  # noqa: S102 - it is our own page
    place = tmp_path / "accounts.db"
    with contextlib.closing(sqlite3.connect(place)) as db, db:
        db.execute("CREATE TABLE accounts (id, session)")
        db.execute("INSERT INTO accounts VALUES (1, '{}')")
    started = threading.Barrier(3)

    def log_in(device: int) -> None:
        def hand_over(session: dict[str, Any]) -> dict[str, Any]:
            payload = {"cart": [{"sku": "tea", "quantity": 1}]}
            merged = merge_guests(session, [Candidate(0, guest(payload, subject=f"G-{device}"))], SHIPPED["cart"])
            return {"payload": merged.payload, "next": None}

        connection = sqlite3.connect(place, isolation_level=None, timeout=60)
        started.wait(60)
        names["log_in"](connection, 1, hand_over)
        connection.close()

    devices = [threading.Thread(target=log_in, args=(device,)) for device in range(3)]
    for device in devices:
        device.start()
    for device in devices:
        device.join(60)

    with contextlib.closing(sqlite3.connect(place)) as db:
        (stored,) = db.execute("SELECT session FROM accounts").fetchone()
    assert json.loads(stored)["cart"] == [{"sku": "tea", "quantity": 3}]


def test_the_page_names_what_is_shipped_and_protected() -> None:
    assert {name for name in SHIPPED if f"| `{name}` |" in PAGE} == SHIPPED.keys()
    assert f"{len(PROTECTED)} top-level names" in PAGE
