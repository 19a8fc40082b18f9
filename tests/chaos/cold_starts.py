"""`make cold-starts`: many services started at once where there is no keyring yet. All must end with one ring.

Once on one folder without Redis, once on several folders (the volumes of several hosts) with Redis between them.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from service.keys.encryption import make_secret
from tests.chaos.processes import Replica
from tests.redis_servers import Server, running


async def start_all(replicas: list[Replica]) -> tuple[set[str], float]:
    """The key sets that they publish, and the time until the last was ready."""
    started = time.monotonic()
    for replica in replicas:
        replica.launch()
    try:
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(replica.ready(session) for replica in replicas))
            took_s = time.monotonic() - started
            published = set()
            for replica in replicas:
                async with session.get(f"{replica.base}/.well-known/jwks.json") as response:
                    published.add(await response.text())
    finally:
        for replica in replicas:
            replica.kill()
    return published, took_s


def on_one_folder(base: Path, count: int) -> list[Replica]:
    variables = {"GUEST_KEYS_DIR": str(base / "keys")}
    return [Replica(f"keeper {number}", variables, log=base / f"{number}.log") for number in range(count)]


def on_many_folders(base: Path, count: int, url: str) -> list[Replica]:
    shared = {"GUEST_REDIS_URL": url, "GUEST_KEYS_SECRET": make_secret()}
    folders = [str(base / f"volume-{number % 10}") for number in range(count)]
    return [
        Replica(f"keeper {number}", {**shared, "GUEST_KEYS_DIR": folder}, log=base / f"{number}.log")
        for number, folder in enumerate(folders)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50)
    count = parser.parse_args().count
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for where in ("one folder", "ten folders with Redis between them"):
            place = base / where.replace(" ", "-")
            with running(Server(place / "redis")) as (redis,):
                one = where == "one folder"
                url = f"unix://{redis.socket}"
                replicas = on_one_folder(place, count) if one else on_many_folders(place, count, url)
                published, took_s = asyncio.run(start_all(replicas))
            faults += len(published) != 1
            print(f"{count} services at once on {where}: {len(published)} ring(s), all ready after {took_s:.1f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
