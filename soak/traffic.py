"""Who calls the service: guests and back ends that mean well, and those who do not."""

import asyncio
import random
import re
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, Final

import aiohttp

from soak.tally import HANG_S, Tally
from tests.security.attacks import ATTACKS
from tests.security.bodies import BAD_BODIES
from tests.security.forge import Forge
from tests.security.heads import MALFORMED

GIVE_UP_S: Final = 4 * HANG_S
STALLED_S: Final = 5.0
"""How long the service waits for the rest of a head or of a body. Only what comes later than that counts as a hang."""
TOKENS_KEPT: Final = 2_000
BODY_HEAD: Final = b"POST /v1/issue HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Traffic:
    """All callers of one service; each `async` method is one visit, repeated by `keep_up`."""

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        tally: Tally,
        chance: random.Random,
        steady_clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._base_url = base_url
        self._host, port = base_url.removeprefix("http://").split(":")
        self._port = int(port)
        self._headers = {"Authorization": f"Bearer {api_key}"}
        self._tally = tally
        self._chance = chance
        self._steady_clock = steady_clock
        self._tokens: deque[tuple[str, str]] = deque(maxlen=TOKENS_KEPT)
        self._forge = Forge()
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=GIVE_UP_S), cookie_jar=aiohttp.DummyCookieJar()
        )

    async def close(self) -> None:
        """Ends all connections."""
        await self._session.close()

    async def until_ready(self) -> None:
        """Returns when the service has keys: its first start waits whether another keeper fills Redis."""
        async with asyncio.timeout(60):
            while True:
                async with self._session.get(f"{self._base_url}/readyz") as response:
                    if response.ok:
                        return
                await asyncio.sleep(0.1)

    async def keep_up(self, visit: Callable[[], Awaitable[None]], *, every_s: float) -> None:
        """Repeats a visit until cancelled. A connection that breaks is reported, and is no end."""
        while True:
            try:
                await visit()
            except (aiohttp.ClientError, TimeoutError, OSError, asyncio.IncompleteReadError) as error:
                self._tally.fault("connection", f"{visit.__name__}: {error!r}")
            await asyncio.sleep(self._chance.expovariate(1 / every_s))

    async def guest(self) -> None:
        """A visitor's life: issued, verified, refreshed, at the gateway, at last merged. All of it must succeed."""
        number = self._chance.randrange(10**9)
        issued = await self._post("issue", {"payload": {"cart": [number]}, "ttl": 86_400}, expected=201)
        token, subject = issued["token"], issued["subject"]
        self._tokens.append((token, subject))
        await self._must_hold(token, subject)
        change = {"merge_patch": {"lang": self._chance.choice(["de", "en", None])}}
        token = (await self._post("refresh-payload", {"token": token, **change}))["token"]
        await self._at_gateway(token, subject)
        merged = await self._post("merge", {"tokens": [token], "session": {"cart": [0]}})
        if merged["payload"].get("cart") != [0, number]:
            self._tally.fault("merge", f"{subject}: {merged['skipped']}")

    async def returning_guest(self) -> None:
        """A token of a while ago, often of a key that has been retired since, holds still."""
        if self._tokens:
            await self._must_hold(*self._chance.choice(self._tokens))

    async def longest_lag_s(self) -> float:
        """Of the service's event loop, as its metrics show."""
        async with self._session.get(f"{self._base_url}/metrics") as response:
            found = re.search(
                r"^guest_sessions_event_loop_longest_lag_seconds (\S+)$", await response.text(), re.MULTILINE
            )
        return float(found[1]) if found else 0.0

    async def verifier(self) -> None:
        """Somebody who verifies offline fetches the keys; the next forgeries claim the newest of them."""
        status, answer = await self._ask("GET", "/.well-known/jwks.json", kind="jwks")
        if status == 200:  # noqa: PLR2004
            self._forge.active.kid = answer["keys"][-1]["kid"]

    async def forger(self) -> None:
        """One attack of the catalogue, by somebody without any key of the ring."""
        name = self._chance.choice(list(ATTACKS))
        token = ATTACKS[name][0](self._forge)
        if "\ud800" in token:
            return
        status, answer = await self._ask("POST", "/v1/verify", kind="forged token", json={"token": token}, hostile=True)
        self._tally.refusals[answer.get("reason", answer.get("code", "?"))] += 1
        if answer.get("active", False):
            self._tally.fault("forged accepted", f"verify, {status}: {name}")
        if token.isascii() and token.isprintable() and len(token) < 16_000:  # noqa: PLR2004 - what a header can carry
            headers = {"Cookie": f"guest={token}"}
            status, _ = await self._ask("GET", "/v1/auth", kind="forged cookie", headers=headers, hostile=True)
            if status != 401:  # noqa: PLR2004
                self._tally.fault("forged accepted", f"auth, {status}: {name}")

    async def intruder(self) -> None:
        """A call without the key, or with a wrong one."""
        headers = self._chance.choice([{}, {"X-API-Key": "x" * 20}, {"Authorization": "Bearer é" * 20}])
        arguments: dict[str, Any] = {"json": {}, "headers": {"Authorization": "", **headers}, "hostile": True}
        status, answer = await self._ask("POST", "/v1/issue", kind="no API key", **arguments)
        self._tally.refusals[answer["code"]] += 1
        if status != 401:  # noqa: PLR2004
            self._tally.fault("forged accepted", f"issue without a key: {status}")

    async def vandal(self) -> None:
        """A body that is none."""
        body = self._chance.choice(list(BAD_BODIES.values()))
        headers = {"Content-Type": "application/json"}
        arguments: dict[str, Any] = {"data": body, "headers": headers, "hostile": True}
        _, answer = await self._ask("POST", "/v1/issue", kind="bad body", **arguments)
        self._tally.refusals[answer.get("code", "taken")] += 1

    async def babbler(self) -> None:
        """A head that is none."""
        started_s = self._steady_clock()
        reply = await self._raw(self._chance.choice(list(MALFORMED.values())))
        self._heard("bad head", reply, started_s)

    async def sloth(self) -> None:
        """Half a head, or half a body, and then nothing."""
        half = self._chance.choice([b"GET /healthz HTTP/1.1\r\nHo", self._guarded(BODY_HEAD % 50) + b'{"pay'])
        started_s = self._steady_clock()
        reply = await self._raw(half)
        self._heard("stalled", reply, started_s + STALLED_S)
        if b" 408 " not in reply[:20]:
            self._tally.fault("stalled", repr(reply[:20]))

    async def leaver(self) -> None:
        """Sends something and is gone, often with a reset."""
        _, writer = await asyncio.open_connection(self._host, self._port)
        whole = self._guarded(BODY_HEAD % 2) + b"{}"
        writer.write(whole[: self._chance.randrange(len(whole) + 1)])
        if self._chance.random() < 0.5:  # noqa: PLR2004
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()
        self._tally.hostile["gone midway"] += 1

    async def _must_hold(self, token: str, subject: str) -> None:
        verified = await self._post("verify", {"token": token})
        if verified.get("subject") != subject:
            self._tally.fault("valid refused", f"{subject}: {verified.get('reason')}")

    async def _at_gateway(self, token: str, subject: str) -> None:
        started_s = self._steady_clock()
        async with self._session.get(f"{self._base_url}/v1/auth", headers={"Cookie": f"guest={token}"}) as response:
            self._tally.answered("auth", status=response.status, seconds=self._steady_clock() - started_s)
            if response.headers.get("X-Guest-Id") != subject:
                self._tally.fault("valid refused", f"auth, {response.status}: {subject}")

    async def _post(self, name: str, body: dict[str, Any], *, expected: int = 200) -> dict[str, Any]:
        status, answer = await self._ask("POST", f"/v1/{name}", kind=name, json=body)
        if status != expected:
            self._tally.fault("good refused", f"{name}: {status} {answer.get('code')}")
        return answer

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        kind: str,
        hostile: bool = False,
        headers: dict[str, str] | None = None,
        **body: Any,
    ) -> tuple[int, dict[str, Any]]:
        started_s = self._steady_clock()
        given = {**self._headers, **(headers or {})}
        async with self._session.request(method, self._base_url + path, headers=given, **body) as response:
            raw = await response.read()
        self._tally.answered(kind, status=response.status, seconds=self._steady_clock() - started_s, hostile=hostile)
        return response.status, await response.json(content_type=None) if raw else {}

    async def _raw(self, sent: bytes) -> bytes:
        """What comes back until the service closes."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            async with asyncio.timeout(GIVE_UP_S):
                writer.write(sent)
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    def _heard(self, kind: str, reply: bytes, started_s: float) -> None:
        status = int(reply[9:12]) if reply[9:12].isdigit() else 0
        self._tally.answered(kind, status=status, seconds=self._steady_clock() - started_s, hostile=True)

    def _guarded(self, head: bytes) -> bytes:
        authorization = f"Authorization: {self._headers['Authorization']}\r\n\r\n"
        return head.removesuffix(b"\r\n") + authorization.encode()
