import json
import re
from pathlib import Path
from typing import Any

import pytest

from service.merge.handover import Candidate, merge_guests
from service.merge.policy import PROTECTED
from service.merge.policy_parser import compile_policy, parse_policy_file
from service.merge.presets import SHIPPED
from service.strict_json import equal
from service.tokens.claims import GuestClaims

PAGE = (Path(__file__).parents[2] / "docs" / "merging.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


DOCUMENTS = [json.loads(block) for block in blocks("json")]
EXAMPLES = [document for document in DOCUMENTS if "result" in document]
POLICIES = [document for document in DOCUMENTS if "result" not in document]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: json.dumps(example["policy"])[:60])
def test_an_example_gives_what_the_page_says(example: dict[str, Any]) -> None:
    claims = GuestClaims("https://guests.example", "G-1", (), 1, 2, 1, "t", 1, example["guest"])

    result = merge_guests(example["session"], [Candidate(0, claims)], compile_policy(example["policy"]))

    payload = {name: value for name, value in result.payload.items() if name != "merged_guests"}
    assert equal(payload, example["result"]), payload
    if "conflicts" in example:
        told = [
            {"path": each.path, "session": each.session, "guest": each.guest, "kept": each.kept, "rule": each.rule}
            for each in result.conflicts
        ]
        assert equal(told, example["conflicts"]), told


def test_every_rule_and_recipe_has_an_example() -> None:
    assert len(EXAMPLES) >= 16
    assert [compile_policy(document) for document in POLICIES]
    assert all(parse_policy_file(block.encode(), format="toml") for block in blocks("toml"))


def test_the_page_names_what_is_shipped_and_protected() -> None:
    assert {name for name in SHIPPED if f"| `{name}` |" in PAGE} == SHIPPED.keys()
    assert f"{len(PROTECTED)} top-level names" in PAGE
