"""The policies that come with the service, by name."""

from collections.abc import Mapping
from types import MappingProxyType

from service.merge.policy import Policy
from service.merge.policy_parser import compile_policy


def _cart(quantity: str) -> dict[str, object]:
    """Lines by `sku`, each with a `quantity` (or `qty`), which a guest can raise to 99 and never push below 0.

    The floor is 0 and no 1, or a line that the guest had emptied would come to the account with a piece in it.
    """
    amount = {"rule": quantity, "floor": 0, "ceiling": 99}
    return {"rule": "by_key", "key": "sku", "limit": 100, "fields": {"/quantity": amount, "/qty": amount}}


SHIPPED_DOCUMENTS: Mapping[str, dict[str, object]] = MappingProxyType(
    {
        "default": {},
        "cart": {"rules": {"/cart": _cart("sum")}},
        "preferences": {
            "rules": {
                "/preferences/*": "guest",
                "/favourites": {"rule": "union", "limit": 500},
                "/recently_viewed": {"rule": "union", "limit": 50, "keep": "last"},
                "/consent/*": "session",
            }
        },
        "highest_quantity_wins": {"rules": {"/cart": _cart("max")}},
        "saved_cart_wins": {"rules": {"/cart": "session"}},
        "guest_if_empty": {"default": "guest_if_empty"},
        "guest_replaces": {"default": "guest"},
    }
)
"""The policies that come with the service, by name, as a person would write them."""

SHIPPED: Mapping[str, Policy] = MappingProxyType(
    {name: compile_policy(document) for name, document in SHIPPED_DOCUMENTS.items()}
)
"""The same, compiled."""
