"""What a merge costs: a 3 KB guest into a 3 KB session under ten rules, long lists, and what hostile guests would send.

`make bench-merge` prints the figures; nothing is asserted.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

from service.merge.handover import Candidate, merge_guests
from service.merge.policy_parser import compile_policy
from service.merge.presets import SHIPPED
from service.tokens.claims import GuestClaims

TEN_RULES: dict[str, Any] = {
    "rules": {
        "/cart": {
            "rule": "by_key",
            "key": "sku",
            "limit": 100,
            "fields": {"/quantity": {"rule": "sum", "ceiling": 99}, "/note": "guest"},
        },
        "/favourites": "union",
        "/recently_viewed": {"rule": "union", "limit": 50, "keep": "last"},
        "/visits": "sum",
        "/points": {"rule": "max", "ceiling": 1000},
        "/preferences/*": "guest",
        "/consent/*": "session",
        "/campaign": "guest_if_empty",
    }
}


def payload(start: int) -> dict[str, Any]:
    """About 3 KB of what shops keep; half of it is the same for payloads whose starts are 10 apart."""
    return {
        "cart": [
            {"sku": f"sku-{start + n:05d}", "quantity": n + 1, "name": f"Product number {n:08}", "note": "x" * 36}
            for n in range(20)
        ],
        "favourites": [f"sku-{start + n:05d}" for n in range(20)],
        "recently_viewed": [f"sku-{start + n:05d}" for n in range(20)],
        "visits": 12,
        "points": 250,
        "preferences": {"theme": "dark", "language": "en", "currency": "EUR"},
        "consent": {"statistics": True, "marketing": False},
        "campaign": "spring",
    }


def claims(of: dict[str, Any]) -> GuestClaims:
    """A guest with this payload."""
    return GuestClaims("https://guests.example", "G-1", (), 1, 2, 1, "t", 1, of)


def median_s(run: Callable[[], object], *, rounds: int) -> float:
    """The median CPU time of one run, in seconds."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times)


def long_list(length: int, rule: dict[str, Any]) -> float:
    """Merges a list of `length` objects into another that shares half of them; CPU seconds."""
    session = {"list": [{"sku": n, "quantity": 1} for n in range(length)]}
    guest = claims({"list": [{"sku": n, "quantity": 1} for n in range(length // 2, length + length // 2)]})
    policy = compile_policy({"rules": {"/list": rule}})
    return median_s(lambda: merge_guests(session, [Candidate(0, guest)], policy), rounds=3)


def many_guests(session: dict[str, Any], guest: dict[str, Any], count: int) -> float:
    """Merges `count` guests of one payload under the shipped `cart`; CPU seconds."""
    guests = [Candidate(n, msgspec.structs.replace(claims(guest), subject=f"G-{n}")) for n in range(count)]
    return median_s(lambda: merge_guests(session, guests, SHIPPED["cart"]), rounds=3)


def main() -> None:
    """Prints the figures."""
    write = sys.stdout.write
    session, guest, policy = payload(0), claims(payload(10)), compile_policy(TEN_RULES)
    size = len(json.dumps(session, separators=(",", ":")))
    cost = median_s(lambda: merge_guests(session, [Candidate(0, guest)], policy), rounds=2000)
    compiling = median_s(lambda: compile_policy(TEN_RULES), rounds=500)
    write(f"{size} bytes into {size} bytes, ten rules: {cost * 1e6:.0f} µs; compiling: {compiling * 1e6:.0f} µs\n")
    rules: dict[str, dict[str, Any]] = {
        "by_key": {"rule": "by_key", "key": "sku", "fields": {"/quantity": "sum"}},
        "union": {"rule": "union"},
        "union, keep last": {"rule": "union", "keep": "last"},
        "append": {"rule": "append"},
    }
    for name, rule in rules.items():
        short, long = long_list(10_000, rule), long_list(100_000, rule)
        write(f"{name:17} 10,000: {short * 1e3:7.1f} ms   100,000: {long * 1e3:7.1f} ms   {long / short:5.1f} times\n")
    numbers = list(range(50_000))
    one_key = {"cart": [{"sku": 1, "o": [n]} for n in range(130)]}
    write(f"6 guests, 130 elements of one key: {many_guests({'cart': [{'sku': 1, 'o': numbers}]}, one_key, 6):.3f} s\n")
    one_line = {"cart": [{"sku": 1} | {f"m{n}": n for n in range(11_000)}]}
    write(f"32 guests, 220 into a line of 11,000: {many_guests(one_line, {'cart': [{'sku': 1}] * 220}, 32):.3f} s\n")
    write(f"32 guests, one more in 100,000: {many_guests({'l': [1] * 100_000}, {'l': [2]}, 32):.3f} s\n")


if __name__ == "__main__":
    main()
