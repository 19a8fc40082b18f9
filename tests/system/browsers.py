"""Simulated browsers against a live service: one jar, tabs, double clicks, answers that overtake each other, logins.

Every click that was acknowledged must be in the account in the end, and none twice. A click is a request of a shop that
reads the guest's state from its cookie, changes it, and has the change signed; a customer's changes the account. The
exception is a change that an old token makes after its guest was handed over: it merges weakened, if it ever comes
back. `make browsers` runs thousands of seeds.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from tests.processes import running

AT_ONCE: Final = 8
CLICKS: Final = (12, 30)
TABS: Final = (2, 6)
LONGEST_PAUSE_S: Final = 0.012
"""Between clicks, and of each message on its way: about as long as a refresh takes, so that all of them interleave."""
SKUS: Final = "abcde"
POLICY: Final = {
    "rules": {"/cart": {"rule": "by_key", "key": "sku", "fields": {"/quantity": "sum"}}, "/seen": "union"},
}


class Lost(AssertionError):
    """A change that was acknowledged is missing, or is there twice."""


@dataclass
class Click:
    """One more piece. The guest and its version are the answer's; a customer's click has neither."""

    sku: str
    mark: str
    guest: str = ""
    version: int = 0
    is_rebased: bool = False
    came_before_login: bool = True
    """Whether its answer was there when the guest's login was sent."""


class Browser:
    """One visitor, whose choices follow from a seed."""

    def __init__(self, session: aiohttp.ClientSession, base_urls: Sequence[str], seed: int, *, routed: bool) -> None:
        self.session = session
        self.base_urls = base_urls
        self.routed = routed
        self.seed = seed
        self.random = random.Random(seed)  # noqa: S311 - chance, not secrecy
        self.jar = ""
        self.login_is_sent = self.is_customer = False
        self.clicks: list[Click] = []
        self.account: dict[str, Any] = {"cart": []}
        self.account_lock = asyncio.Lock()
        self.handed_over: dict[str, int] = {}
        """The version with which each guest was handed over first."""

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
        """Clicks with a login among them, a logout, more clicks, and a login when all is still."""
        await self.begin_guest()
        await self.shop(self.random.randint(*CLICKS), login_among=True)
        await self.begin_guest()
        await self.shop(self.random.randint(*CLICKS))
        await self.login()

    async def begin_guest(self) -> None:
        self.login_is_sent = self.is_customer = False
        self.jar = (await self.post("/v1/issue", {"payload": {"cart": []}}))["token"]

    async def shop(self, clicks: int, *, login_among: bool = False) -> None:
        """Clicks in several tabs; none waits for the answer to another's. A double click counts as two of them."""
        steps = [self.click] * clicks + [self.open_page] * (clicks // 4)
        self.random.shuffle(steps)
        if login_among:
            steps.insert(self.random.randrange(len(steps)), self.login)
        waiting = iter(steps)

        async def tab() -> None:
            for step in waiting:
                await step()
                await self.pause()

        async with asyncio.TaskGroup() as tabs:
            for _ in range(self.random.randint(*TABS)):
                tabs.create_task(tab())

    async def click(self) -> None:
        cookie, sku, mark = self.jar, self.random.choice(SKUS), f"{len(self.clicks)}"
        self.clicks.append(click := Click(sku, mark))
        if self.is_customer:
            async with self.account_lock:
                self.account = {**self.account, **one_more(self.account, sku, mark)}
            return
        change = self.change(one_more(payload_of(cookie), sku, mark))
        await self.pause()
        answer = await self.post("/v1/refresh-payload", {"token": cookie, "policy": POLICY, **change})
        click.guest, click.version, click.is_rebased = answer["subject"], answer["version"], "rebased_onto" in answer
        click.came_before_login = not self.login_is_sent
        await self.pause()
        self.jar = answer["token"]  # whichever comes last stays

    def change(self, payload: dict[str, Any]) -> dict[str, Any]:
        match self.random.randrange(3):
            case 0:
                return {"payload": payload}
            case 1:
                return {"merge_patch": payload}
        return {"json_patch": [{"op": "add", "path": f"/{name}", "value": value} for name, value in payload.items()]}

    async def open_page(self) -> None:
        """Renews the guest; a customer's, which an answer that came late has brought back, is handed over again."""
        cookie = self.jar
        if self.is_customer:
            if any(payload_of(cookie).values()):
                await self.login()
            return
        await self.pause()
        answer = await self.post("/v1/refresh-payload", {"token": cookie})
        await self.pause()
        self.jar = answer["token"]

    async def login(self) -> None:
        """The shop hands the guest of the cookie over, and stores the account."""
        cookie = self.jar
        await self.pause()
        async with self.account_lock:
            self.login_is_sent = True
            body = {"tokens": [cookie], "session": self.account, "policy": POLICY}
            answer = await self.post("/v1/merge", body)
            self.account = answer["payload"]
        for guest in answer["guests"]:
            self.handed_over.setdefault(guest["subject"], guest["version"])
        await self.pause()
        self.jar, self.is_customer = answer["next"]["token"], True

    def late(self, click: Click) -> bool:
        """Whether an old token made the change after its guest was handed over, so that it may be lost."""
        return not click.came_before_login and click.version > self.handed_over.get(click.guest, 0)

    def lost(self) -> int:
        """How many acknowledged changes are missing in the account, or are there twice; late ones may be missing."""
        cart = Counter({line["sku"]: line["quantity"] for line in self.account["cart"]})
        marks = Counter(self.account.get("seen", []))
        late = [click for click in self.clicks if self.late(click)]
        most, most_marks = (Counter(getattr(each, name) for each in self.clicks) for name in ("sku", "mark"))
        least = most - Counter(click.sku for click in late)
        least_marks = most_marks - Counter(click.mark for click in late)
        return max(
            ((least - cart) + (cart - most)).total(),
            ((least_marks - marks) + (marks - most_marks)).total(),
        )


def one_more(state: dict[str, Any], sku: str, mark: str) -> dict[str, Any]:
    """The state with one more piece, and a mark of its own, as a shop has it that reads the state from the cookie."""
    cart = [dict(line) for line in state.get("cart", [])]
    line = next((line for line in cart if line["sku"] == sku), None)
    if line is None:
        cart.append({"sku": sku, "quantity": 1})
    else:
        line["quantity"] += 1
    return {"cart": cart, "seen": [*state.get("seen", []), mark]}


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
                done.update(
                    seeds=1,
                    clicks=len(browser.clicks),
                    rebased=sum(click.is_rebased for click in browser.clicks),
                    late=sum(map(browser.late, browser.clicks)),
                    lost=browser.lost(),
                )
                if routed and browser.lost():
                    raise Lost(f"seed {seed}: {browser.clicks}, in the account {browser.account}")

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
            f"{done['rebased']} rebased, {done['late']} late, {done['lost']} lost; "
            f"{time.monotonic() - started_s:.0f} s\n"
        )


if __name__ == "__main__":
    main()
