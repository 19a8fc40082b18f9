"""Simulated browsers against a live service: one jar, tabs, double clicks, answers that overtake each other, a login.

Every click that was acknowledged must be in the account in the end, and none twice. A click is a request of a shop that
reads the guest's state from its cookie, changes it, and has the change signed. `make browsers` runs thousands of seeds.
"""

import argparse
import asyncio
import base64
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from tests.processes import running

AT_ONCE: Final = 8
CLICKS: Final = (12, 30)
LONGEST_PAUSE_S: Final = 0.012
"""Between clicks, and of each message on its way: about as long as a refresh takes, so that all of them interleave."""
SKUS: Final = "abcde"
POLICY: Final = {
    "rules": {"/cart": {"rule": "by_key", "key": "sku", "fields": {"/quantity": "sum"}}, "/seen": "union"},
}


class Lost(AssertionError):
    """A change that was acknowledged is missing, or is there twice."""


class Browser:
    """One visitor, whose choices follow from a seed."""

    def __init__(self, session: aiohttp.ClientSession, base_urls: Sequence[str], seed: int, *, routed: bool) -> None:
        self.session = session
        self.base_urls = base_urls
        self.routed = routed
        self.seed = seed
        self.random = random.Random(seed)  # noqa: S311 - chance, not secrecy
        self.jar = ""
        self.clicked = 0
        self.rebased = 0
        self.acknowledged: Counter[str] = Counter()
        self.seen: set[str] = set()
        self.account: dict[str, Any] = {"cart": []}

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        # By the visitor's X-Guest-Id, as a balancer does that keeps a guest at one replica; or to any of them.
        replica = self.seed if self.routed else self.random.randrange(len(self.base_urls))
        async with self.session.post(self.base_urls[replica % len(self.base_urls)] + path, json=body) as response:
            content = await response.read()
            if response.status >= 300:
                raise Lost(f"seed {self.seed}: {path} answered {response.status} {content!r}")
            return dict(msgspec.json.decode(content))

    async def pause(self) -> None:
        await asyncio.sleep(self.random.random() * LONGEST_PAUSE_S)

    async def visit(self) -> None:
        """Clicks, a login in between, more clicks, and another login."""
        self.jar = (await self.post("/v1/issue", {"payload": {"cart": []}}))["token"]
        await self.shop(self.random.randint(*CLICKS))
        await self.login()
        await self.shop(self.random.randint(*CLICKS))
        await self.login()

    async def shop(self, clicks: int) -> None:
        """Clicks in several tabs; none waits for the answer to the one before."""
        async with asyncio.TaskGroup() as under_way:
            while clicks:
                together = min(clicks, self.random.choice((1, 1, 2, 3, 5)))  # a double click, or as many tabs
                clicks -= together
                for _ in range(together):
                    under_way.create_task(self.click())
                if not self.random.randrange(4):
                    under_way.create_task(self.renew())
                await self.pause()

    async def click(self) -> None:
        cookie, sku, self.clicked = self.jar, self.random.choice(SKUS), self.clicked + 1
        mark = f"{self.clicked}"
        await self.pause()
        answer = await self.post(
            "/v1/refresh-payload", {"token": cookie, "policy": POLICY, **self.change(cookie, sku, mark)}
        )
        self.acknowledged[sku] += 1
        self.seen.add(mark)
        self.rebased += "rebased_onto" in answer
        await self.pause()
        self.jar = answer["token"]  # whichever comes last stays

    def change(self, cookie: str, sku: str, mark: str) -> dict[str, Any]:
        """One more piece, and a mark of its own, as a shop has it that reads the state from the cookie."""
        state = payload_of(cookie)
        cart = [dict(line) for line in state.get("cart", [])]
        line = next((line for line in cart if line["sku"] == sku), None)
        if line is None:
            cart.append({"sku": sku, "quantity": 1})
        else:
            line["quantity"] += 1
        changed = {"cart": cart, "seen": [*state.get("seen", []), mark]}
        match self.random.randrange(3):
            case 0:
                return {"payload": changed}
            case 1:
                return {"merge_patch": changed}
        return {"json_patch": [{"op": "add", "path": f"/{name}", "value": value} for name, value in changed.items()]}

    async def renew(self) -> None:
        cookie = self.jar
        await self.pause()
        answer = await self.post("/v1/refresh-payload", {"token": cookie})
        await self.pause()
        self.jar = answer["token"]

    async def login(self) -> None:
        """The shop hands the guest of the cookie over, and stores the account."""
        body = {"tokens": [self.jar], "session": self.account, "policy": POLICY}
        answer = await self.post("/v1/merge", body)
        self.account, self.jar = answer["payload"], answer["next"]["token"]

    def lost(self) -> int:
        """How many acknowledged changes are missing in the account, or are there twice."""
        cart = Counter({line["sku"]: line["quantity"] for line in self.account["cart"]})
        marks = Counter(self.account.get("seen", []))
        wrong = [abs(cart[sku] - self.acknowledged[sku]) for sku in SKUS]
        return max(sum(wrong), sum(((marks - Counter(self.seen)) + (Counter(self.seen) - marks)).values()))


def payload_of(raw_token: str) -> dict[str, Any]:
    segment = raw_token.split(".")[1]
    return dict(msgspec.json.decode(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))["payload"])


async def browse(base_urls: Sequence[str], seeds: range, *, routed: bool = True) -> Counter[str]:
    """Runs a browser for each seed against replicas; the sums of what they did."""
    done: Counter[str] = Counter()
    waiting = iter(seeds)

    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def work() -> None:
            for seed in waiting:
                browser = Browser(session, base_urls, seed, routed=routed)
                await browser.visit()
                done.update(seeds=1, clicks=browser.clicked, rebased=browser.rebased, lost=browser.lost())
                if routed and browser.lost():
                    raise Lost(f"seed {seed}: {browser.acknowledged}, in the account {browser.account['cart']}")

        async with asyncio.TaskGroup() as browsers:
            for _ in range(AT_ONCE):
                browsers.create_task(work())
    return done


@contextmanager
def replicas(number: int, **variables: str) -> Iterator[list[str]]:
    """Services with one keyring, each with a memory of its own."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        services = []
        for each in range(number):
            place = Path(folder) / f"{each}"
            place.mkdir()
            services.append(stack.enter_context(running(place, GUEST_KEYS_DIR=f"{folder}/keys", **variables)))
        yield [service.base_url for service in services]


def main() -> None:
    """Runs the seeds against services, and prints how much was done and lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--unrouted", action="store_true", help="any replica takes any request: changes are lost")
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.seeds)
    for workers in given.workers:
        started_s = time.monotonic()
        with replicas(given.replicas, GUEST_WORKERS=str(workers), GUEST_MAX_TOKEN_BYTES="16384") as base_urls:
            done = asyncio.run(browse(base_urls, seeds, routed=not given.unrouted))
        sys.stdout.write(
            f"{given.replicas} replica(s) of {workers} worker(s): {done['seeds']} browsers, {done['clicks']} clicks, "
            f"{done['rebased']} rebased, {done['lost']} lost; {time.monotonic() - started_s:.0f} s\n"
        )


if __name__ == "__main__":
    main()
