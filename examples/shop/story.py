"""What a merge did, in words for the customer."""

from typing import Any

from catalog import CATALOG


def tell(name: str, brought: dict[str, Any], merge: dict[str, Any]) -> list[str]:
    """Sentences about the answer of /v1/merge; `brought` is the payload that the guest came with."""
    return [_welcome(name, brought, merge), *_limits(merge)]


def _welcome(name: str, brought: dict[str, Any], merge: dict[str, Any]) -> str:
    if any(skipped["reason"] == "already_merged" for skipped in merge["skipped"]):
        return f"Welcome back, {name}. What you picked here was handed over before; nothing was counted twice."
    what = _what(brought)
    if not merge["merged"] or not what:
        return f"Welcome back, {name}."
    if any(guest["weakened"] for guest in merge["guests"]):
        return f"Welcome back, {name}. What you picked here ({what}) is in your cart, each piece counted once."
    return f"Welcome back, {name}. What you picked as a guest, {what}, is now with what you had."


def _what(brought: dict[str, Any]) -> str:
    pieces = sum(line["quantity"] for line in brought.get("cart", []))
    favourites = len(brought.get("favourites", []))
    return " and ".join(_count(n, noun) for n, noun in ((pieces, "piece"), (favourites, "favourite")) if n)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _limits(merge: dict[str, Any]) -> list[str]:
    """One sentence for each quantity that the policy's ceiling held back."""
    sentences = []
    for conflict in merge["conflicts"]:
        member, _, rest = conflict["path"][1:].partition("/")
        index = rest.partition("/")[0]
        if member == "cart" and conflict["kept"] == "bounded" and index.isdigit():
            line = merge["payload"]["cart"][int(index)]
            named = CATALOG[line["sku"]].name
            sentences.append(
                f"{named}: you had {conflict['session']} and brought {conflict['guest']}; "
                f"{line['quantity']} is the most in one order."
            )
    return sentences
