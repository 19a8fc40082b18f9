"""What happens to the service meanwhile: keys rotate, and Redis is killed, paused, emptied and lied to."""

import asyncio
import random
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Final

from redis.exceptions import RedisError

from soak.tally import Tally
from tests.redis_servers import Server

PAUSE_S: Final = 10.0
CLI_TIMEOUT_S: Final = 60.0


async def rotate(tally: Tally, variables: Mapping[str, str], *, every_s: float) -> None:
    """Lets a new key sign at once, again and again, through the command line."""
    while True:
        await asyncio.sleep(every_s)
        command = (sys.executable, "-m", "service", "keys", "rotate", "--now")
        process = await asyncio.create_subprocess_exec(*command, env=variables, stdout=-3, stderr=subprocess.PIPE)
        async with asyncio.timeout(CLI_TIMEOUT_S):
            _, errors = await process.communicate()
        tally.events["rotation"] += 1
        if process.returncode:
            tally.fault("rotation", errors.decode()[-200:])


class RedisTrouble:
    """One server's bad days."""

    def __init__(self, server: Server, tally: Tally, chance: random.Random) -> None:
        self._server = server
        self._tally = tally
        self._chance = chance

    async def happen(self, *, every_s: float) -> None:
        """One trouble after the other, each at its turn of a shuffled round."""
        while True:
            troubles = [self._kill, self._pause, self._empty, self._lie]
            self._chance.shuffle(troubles)
            for trouble in troubles:
                await asyncio.sleep(every_s)
                await trouble()
                self._tally.events[f"Redis: {trouble.__name__.strip('_')}"] += 1

    async def _kill(self) -> None:
        self._server.kill()
        await asyncio.sleep(PAUSE_S)
        await asyncio.to_thread(self._server.start)

    async def _pause(self) -> None:
        self._server.pause()
        await asyncio.sleep(PAUSE_S)
        self._server.resume()

    async def _empty(self) -> None:
        await asyncio.to_thread(self._do, "FLUSHALL")

    async def _lie(self) -> None:
        for key in await asyncio.to_thread(self._do, "KEYS", "*"):
            await asyncio.to_thread(self._do, "SET", key, "not a keyring")

    def _do(self, *words: Any) -> Any:
        try:
            return self._server.client().execute_command(*words)  # type: ignore[no-untyped-call]
        except RedisError:
            return []
