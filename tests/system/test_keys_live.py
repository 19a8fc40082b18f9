"""Keepers and followers that run, with the real file store, the real codec and a real server."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from service.keys import encoding, keyring
from service.keys.encryption import Sealer, make_secret
from service.keys.file_store import FileStore
from service.keys.generator import KeyGenerator
from service.keys.keyring import KeyPolicy, KeyRing
from service.keys.manager import KeyManager, Pace
from service.keys.redis_store import RedisStore, parse_redis_url
from tests.redis_servers import Server, running

SECRET = make_secret()
RING_KEY = "guest-sessions:keyring"
POLICY = KeyPolicy(algorithm="ES256", max_lifetime_s=1_000, jwks_max_age_s=300, rotate_every_s=0)


class Fleet:
    """Processes' worth of keys on one folder and one Redis, all running."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder = folder
        self.server = server
        self.generator = KeyGenerator(POLICY, clock=time.time, random_bytes=os.urandom)
        self._running = contextlib.AsyncExitStack()

    @property
    def file(self) -> FileStore:
        return FileStore(self.folder, Sealer([SECRET]))

    async def start(
        self, *, file: FileStore | None, redis: bool = True, clock: Callable[[], float] = time.time
    ) -> KeyManager:
        copy = RedisStore(parse_redis_url(f"unix://{self.server.socket}"), Sealer([SECRET]), timeout_s=1)
        keys = KeyManager(
            POLICY,
            generator=self.generator,
            file=file,
            copy=copy if redis else None,
            clock=clock,
            steady_clock=time.monotonic,
            pace=Pace(first_ring_patience_s=0),
        )
        await keys.start()
        self._running.push_async_callback(keys.stop)
        task = asyncio.create_task(keys.run())
        self._running.push_async_callback(_ended, task)
        return keys

    async def rotate_now(self) -> KeyRing:
        def rotate() -> KeyRing:
            with self.file.transaction() as tx:
                assert tx.ring is not None
                staged = keyring.stage(tx.ring, self.generator.key())
                tx.ring = ring = keyring.promote(staged, now_s=time.time())
            return ring

        return await asyncio.to_thread(rotate)

    def stored(self) -> bytes | None:
        with self.server.client() as client:
            content = client.get(RING_KEY)
        assert content is None or isinstance(content, bytes)
        return content

    async def stop(self) -> None:
        await self._running.aclose()


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _differs(fleet: Fleet, wrong: bytes) -> bool:
    return fleet.stored() != wrong


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(Server(tmp_path / "redis")) as (server,):
        yield server


@pytest.fixture
async def fleet(tmp_path: Path, server: Server) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path / "keys", server)
    yield fleet
    await fleet.stop()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - other processes' doings raise no event here
            await asyncio.sleep(0.02)


def revision(keys: KeyManager) -> int:
    return keys.status().revision


async def test_a_change_reaches_every_process_by_redis_or_the_file_alone(fleet: Fleet) -> None:
    keeper = await fleet.start(file=fleet.file)
    follower = await fleet.start(file=None)
    alone = await fleet.start(file=fleet.file, redis=False)
    assert revision(follower) == revision(alone) == 1

    ring = await fleet.rotate_now()

    await until(lambda: revision(keeper) == revision(follower) == revision(alone) == ring.revision)
    assert keeper.loaded is not None
    assert follower.loaded is not None
    token = keeper.loaded.signer.sign(b"{}")
    assert follower.loaded.signer.verify(token)[0] == ring.active


async def test_a_follower_that_starts_first_becomes_ready_once_a_keeper_does(fleet: Fleet) -> None:
    follower = await fleet.start(file=None)
    assert follower.loaded is None

    keeper = await fleet.start(file=fleet.file)

    await until(lambda: follower.loaded is not None)
    assert revision(follower) == revision(keeper)


async def test_the_copy_comes_back_after_redis_was_emptied_or_lost(fleet: Fleet, server: Server) -> None:
    keeper = await fleet.start(file=fleet.file)
    follower = await fleet.start(file=None)
    with server.client() as client:
        client.flushall()
    await until(fleet.stored)

    server.kill()
    await until(lambda: keeper.status().redis == follower.status().redis == "cache_unavailable")
    ring = await fleet.rotate_now()
    await until(lambda: revision(keeper) == ring.revision)
    assert revision(follower) < ring.revision
    server.start()

    await until(lambda: revision(follower) == ring.revision)
    await until(lambda: keeper.status().redis == follower.status().redis == "ok")


async def test_wrong_content_is_refused_by_all_and_written_over(fleet: Fleet, server: Server) -> None:
    keeper = await fleet.start(file=fleet.file)
    follower = await fleet.start(file=None)
    older = fleet.stored()
    assert older is not None
    ring = await fleet.rotate_now()
    await until(lambda: revision(keeper) == revision(follower) == ring.revision)

    for wrong in (b"garbage", older):
        with server.client() as client:
            client.set(RING_KEY, wrong)
        await until(partial(_differs, fleet, wrong))
        assert revision(follower) == revision(keeper) == ring.revision


async def test_another_deployments_copy_is_left_alone(fleet: Fleet, server: Server) -> None:
    keeper = await fleet.start(file=fleet.file)
    follower = await fleet.start(file=None)
    foreign = Sealer([SECRET]).seal(encoding.to_jwk_set(fleet.generator.ring()))
    with server.client() as client:
        client.set(RING_KEY, foreign)

    await until(lambda: keeper.status().redis == follower.status().redis == "keyring_foreign")
    assert fleet.stored() == foreign
    assert keeper.status().ready


async def test_a_paused_redis_holds_nobody_up(fleet: Fleet, server: Server) -> None:
    keeper = await fleet.start(file=fleet.file)
    server.pause()
    try:
        await until(lambda: keeper.status().redis == "cache_unavailable")
        ring = await fleet.rotate_now()
        await until(lambda: revision(keeper) == ring.revision)
    finally:
        server.resume()
    await until(lambda: keeper.status().redis == "ok")


async def test_a_bug_costs_a_line_in_the_log_and_not_the_next_rotation(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    broken: list[bool] = []

    def clock() -> float:
        if broken:
            raise RuntimeError("a bug")
        return time.time()

    keeper = await fleet.start(file=fleet.file, clock=clock)
    broken.append(True)
    ring = await fleet.rotate_now()
    await until(lambda: "an unexpected failure" in caplog.text)
    assert revision(keeper) < ring.revision

    broken.clear()
    await until(lambda: revision(keeper) == ring.revision)


async def test_fifty_first_starts_at_once_make_one_ring(tmp_path: Path) -> None:
    fleet = [
        KeyManager(
            POLICY,
            generator=KeyGenerator(POLICY, clock=time.time, random_bytes=os.urandom),
            file=FileStore(tmp_path / "keys"),
            copy=None,
            clock=time.time,
            steady_clock=time.monotonic,
            pace=Pace(disk_timeout_s=60),
        )
        for _ in range(50)
    ]
    await asyncio.gather(*(keys.start() for keys in fleet))

    assert len({keys.loaded.ring.ring_id for keys in fleet if keys.loaded}) == 1
    assert all(keys.loaded for keys in fleet)
