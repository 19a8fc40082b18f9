"""What a merge did, in words for the customer: counted from the two carts and the merge's report, never guessed."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from catalog import CATALOG
from guest_sessions import HandOver

WAITS = "safe in this browser and join you as soon as that works"


@dataclass(frozen=True)
class Story:
    sentences: list[str]
    waits: bool
    """Whether picks stayed behind, because the service could not be asked."""


def story_of(name: str, *, had: dict[str, Any], brought: dict[str, Any] | None, result: HandOver) -> Story:
    """About a hand-over: what the customer `had`, and what the guest `brought` (None: it can't be read)."""
    waits = brought is None or bool(_what(_holds(brought)) and result.error)
    limits = _limits(result)
    outcome = _waiting(brought) if waits else _outcome(had, brought or {}, result, limits)
    return Story([f"Welcome back, {name}. {outcome}".strip(), *limits], waits)


def _waiting(brought: dict[str, Any] | None) -> str:
    if brought is None:
        return f"If you picked anything here, your picks are {WAITS}."
    return f"Your cart could not come along just now. Your picks ({_what(_holds(brought))}) are {WAITS}."


def _outcome(had: dict[str, Any], brought: dict[str, Any], result: HandOver, limits: list[str]) -> str:
    if any(skipped["reason"] == "already_merged" for skipped in result.skipped):
        return "What you picked here was handed over before; nothing was counted twice."
    came = _what(_holds(result.payload) - _holds(had))
    once = ", each counted once" if any(guest["weakened"] for guest in result.guests) else ""
    if came:
        return f"{came} that you picked as a guest came with you{once}."
    if limits or not _what(_holds(brought)):
        return ""
    if result.skipped:
        return "What you picked here could not be taken over: this browser's guest session is no longer valid."
    return "All that you picked as a guest was with you already."


def _holds(state: dict[str, Any]) -> Counter[tuple[str, str]]:
    """How many of what, so that two states can be subtracted."""
    pieces = {("piece", line["sku"]): line["quantity"] for line in state.get("cart", [])}
    return Counter(pieces | {("favourite", sku): 1 for sku in state.get("favourites", [])})


def _what(held: Counter[tuple[str, str]]) -> str:
    """`9 pieces and 1 favourite`, or nothing."""
    numbers = [(noun, sum(n for (kind, _), n in held.items() if kind == noun)) for noun in ("piece", "favourite")]
    return " and ".join(f"{number} {noun}{'' if number == 1 else 's'}" for noun, number in numbers if number)


def _limits(result: HandOver) -> list[str]:
    """One sentence for each quantity that the policy's ceiling held back."""
    sentences = []
    for conflict in result.conflicts:
        member, _, rest = conflict["path"][1:].partition("/")
        index = rest.partition("/")[0]
        if member == "cart" and conflict["kept"] == "bounded" and index.isdigit():
            line = result.payload["cart"][int(index)]
            named = CATALOG[line["sku"]].name
            sentences.append(
                f"{named}: you had {conflict.get('session') or 0} and brought {conflict['guest']}; "
                f"{line['quantity']} is the most in one order."
            )
    return sentences
