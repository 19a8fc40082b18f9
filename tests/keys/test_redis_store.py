import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.errors import CacheUnavailable
from service.keys.encryption import Sealer, make_secret
from service.keys.redis_store import NO_BYTES, TIMEOUT_S, RedisStore, parse_redis_url
from tests.doubles import MemoryRedis, memory_store
from tests.redis_servers import TOPOLOGIES, Server, running, sentinel_lines, until

StoreMaker = Callable[[], RedisStore]
RING_KEY = "guest-sessions:keyring"
CLAIM_KEY = "guest-sessions:keyring:founder"
SECRET = make_secret()


def make_store(url: str, *, timeout_s: float = TIMEOUT_S, prefix: str = "guest-sessions:") -> RedisStore:
    return RedisStore(parse_redis_url(url), Sealer([SECRET]), timeout_s=timeout_s, prefix=prefix)


@pytest.fixture(scope="module", params=["in memory", *TOPOLOGIES])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    """One real server or set of servers after the other, for all tests of a worker process."""
    if request.param == "in memory":
        yield None
        return
    with TOPOLOGIES[request.param](tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
async def caches(address: str | None) -> AsyncIterator[StoreMaker]:
    """Makes caches that all look at the same place, which is empty at first."""
    made: list[RedisStore] = []
    memory = MemoryRedis()

    def make() -> RedisStore:
        made.append(memory_store(memory, SECRET) if address is None else make_store(address, timeout_s=5))
        return made[-1]

    if address is not None and "guests:" not in address:
        for name in (RING_KEY, CLAIM_KEY):
            await make()._call(lambda redis, name=name: redis.delete(name))  # type: ignore[misc]
    yield make
    for each in made:
        await each.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(Server(tmp_path / "redis")) as (server,):
        yield server


@pytest.fixture
async def cache(server: Server) -> AsyncIterator[RedisStore]:
    cache = make_store(f"redis://127.0.0.1:{server.port}", timeout_s=1)
    yield cache
    await cache.close()


async def put_once_possible(cache: RedisStore, content: bytes) -> None:
    while True:
        try:
            await cache.put_sealed(content)
        except CacheUnavailable:
            await asyncio.sleep(0.05)
        else:
            return


# --- what every cache does, whatever stands behind it ---


async def test_what_one_process_puts_the_others_get(caches: StoreMaker) -> None:
    one, other = caches(), caches()

    await one.put_sealed(b"sealed \x00\xff bytes")
    assert await other.get_sealed() == b"sealed \x00\xff bytes"
    await other.put_sealed(b"newer")
    assert await one.get_sealed() == b"newer"


async def test_a_ring_of_a_hundred_rsa_keys_fits(caches: StoreMaker) -> None:
    cache = caches()
    ring = b"x" * 500_000

    await cache.put_sealed(ring)
    assert await cache.get_sealed() == ring


async def test_an_empty_place_is_none_and_one_caller_alone_may_found(caches: StoreMaker, address: str | None) -> None:
    if "guests:" in str(address):
        pytest.skip("a user with the least rights cannot empty the place first")
    cache, other = caches(), caches()

    assert await cache.get_sealed() is None
    assert [await cache.claim(b"1"), await other.claim(b"2"), await cache.claim(b"1")] == [True, False, True]

    await other.release(b"2")
    assert not await other.claim(b"2")
    await cache.release(b"1")
    async with asyncio.timeout(10):
        while not await other.claim(b"2"):  # noqa: ASYNC110 - the claim ends by itself, within a millisecond
            await asyncio.sleep(0)


async def test_a_process_can_be_ended_at_any_moment(server: Server) -> None:
    async def follow(cache: RedisStore) -> None:
        while True:
            await cache.get_sealed()

    for number in range(100):
        cache = make_store(f"redis://127.0.0.1:{server.port}")
        following = asyncio.create_task(follow(cache))
        for _ in range(number % 25):
            await asyncio.sleep(0)
        following.cancel()
        _, pending = await asyncio.wait([following], timeout=30)
        assert not pending
        await cache.close()


# --- faults ---


async def test_no_server_is_told_at_once_and_without_a_password() -> None:
    cache = make_store("redis://user:hunter2@127.0.0.1:1", timeout_s=5)

    for call in (cache.get_sealed(), cache.put_sealed(b"x"), cache.claim(b"1")):
        with pytest.raises(CacheUnavailable, match=r"Redis \(single 127\.0\.0\.1:1\) cannot be reached") as caught:
            await call
        assert "hunter2" not in str(caught.value)
        assert caught.value.code == "cache_unavailable"
    await cache.close()


async def test_a_wrong_password_is_told_without_it(tmp_path: Path) -> None:
    with running(Server(tmp_path, lines=("requirepass right",))) as (server,):
        cache = make_store(f"redis://:hunter2@127.0.0.1:{server.port}")
        with pytest.raises(CacheUnavailable, match=r"(?i)password|auth") as caught:
            await cache.get_sealed()
        assert "hunter2" not in str(caught.value)
        await cache.close()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("maxmemory 1", "refused: its memory is full"),
        ("replicaof 127.0.0.1 1", "refused: it is a read-only replica"),
        ("requirepass right", "refused: it wants a password"),
    ],
    ids=["full", "replica", "guarded"],
)
async def test_the_code_of_a_refusal_is_explained(tmp_path: Path, line: str, reason: str) -> None:
    with running(Server(tmp_path, lines=(line,))) as (server,):
        cache = make_store(f"redis://127.0.0.1:{server.port}")
        with pytest.raises(CacheUnavailable, match=reason):
            await cache.put_sealed(b"x")
        await cache.close()


async def test_a_server_that_stops_answering_costs_no_more_than_the_timeout(server: Server) -> None:
    cache = make_store(f"redis://127.0.0.1:{server.port}", timeout_s=0.1)
    with server.client() as client:
        client.set(RING_KEY, b"x")
    server.pause()
    try:
        with pytest.raises(CacheUnavailable, match="did not reply in time"):
            await cache.get_sealed()
    finally:
        server.resume()
    assert server.client().get(RING_KEY) == b"x"
    await cache.close()


async def test_a_server_that_came_back_is_used_again(server: Server, cache: RedisStore) -> None:
    await cache.put_sealed(b"x")
    server.kill()
    with pytest.raises(CacheUnavailable):
        await cache.get_sealed()
    server.start()

    assert await cache.get_sealed() is None
    await cache.put_sealed(b"y")
    assert await cache.get_sealed() == b"y"


async def test_another_type_under_the_name_is_content_that_is_no_ring(server: Server, cache: RedisStore) -> None:
    with server.client() as client:
        client.lpush(RING_KEY, "a", "list")

    assert await cache.get_sealed() == NO_BYTES
    await cache.put_sealed(b"x")
    assert await cache.get_sealed() == b"x"


async def test_two_deployments_share_a_redis_under_two_prefixes(server: Server) -> None:
    url = f"redis://127.0.0.1:{server.port}"
    one, other = make_store(url), make_store(url, prefix="other:")
    await one.put_sealed(b"x")

    assert await other.get_sealed() is None
    assert await other.claim(b"1")
    assert server.client().get("other:keyring:founder") == b"1"
    await one.close()
    await other.close()


async def test_a_server_that_does_not_know_auth_repeats_no_password() -> None:
    async def quote(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(4_096):
                writer.write(b"-ERR unknown command 'AUTH', with args beginning with: 'hunter2'\r\n")
        writer.close()

    server = await asyncio.start_server(quote, "127.0.0.1", 0)
    cache = make_store(f"redis://user:hunter2@127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=1)
    with pytest.raises(CacheUnavailable, match="cannot be used: ") as caught:
        await cache.get()
    await cache.close()
    server.close()

    assert "hunter2" not in caught.value.detail


async def test_a_user_without_the_right_is_told(server: Server) -> None:
    with server.client() as client:
        client.acl_setuser("reader", enabled=True, passwords="+pw", keys="*", commands=["+getrange"])
    cache = make_store(f"redis://reader:pw@127.0.0.1:{server.port}")

    assert await cache.get_sealed() is None
    with pytest.raises(CacheUnavailable, match=r"(?i)no permissions"):
        await cache.put_sealed(b"x")
    await cache.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"$99999999999999999999\r\n",
        b"$abc\r\n",
        b"$-7\r\n",
        b"*3\r\n",
        b"*-1\r\n",
        b"-LOADING not yet\r\n",
        b"-\r\n",
        b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n",
        b":1\r\n:2\r\n:3\r\n:4\r\n:5\r\n",
        b"%1\r\n+a\r\n",
        b"\xff\xfe\x00" * 100,
    ],
)
async def test_a_server_that_lies_is_unavailable_or_its_content_no_ring(answer: bytes) -> None:
    lies = []

    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lies.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            while await reader.read(4_096):
                writer.write(answer)
                await writer.drain()
                if not answer:
                    break
            writer.close()

    liar = await asyncio.start_server(lie, "127.0.0.1", 0)
    port = liar.sockets[0].getsockname()[1]
    cache = make_store(f"redis://127.0.0.1:{port}", timeout_s=0.2)
    with contextlib.suppress(CacheUnavailable):
        assert len(await cache.get_sealed() or b"") < 100
    with contextlib.suppress(CacheUnavailable):
        await cache.claim(b"1")
    await cache.close()
    liar.close()
    await asyncio.gather(*filter(None, lies))


async def test_a_certificate_of_another_authority_is_refused(tmp_path: Path) -> None:
    with TOPOLOGIES["with TLS"](tmp_path) as url:
        cache = make_store(url.partition("?")[0])
        with pytest.raises(CacheUnavailable, match=r"(?i)certificate"):
            await cache.get_sealed()
        await cache.close()


async def test_a_fail_over_of_the_sentinel_is_followed(tmp_path: Path) -> None:
    master = Server(tmp_path / "master")
    with running(master):
        replica = Server(tmp_path / "replica", lines=(f"replicaof 127.0.0.1 {master.port}",))
        sentinel = Server(tmp_path / "sentinel", sentinel=True, lines=sentinel_lines(master))
        with running(replica, sentinel):
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/ring"
            cache = make_store(url, timeout_s=2)
            await cache.put_sealed(b"before")
            until(lambda: replica.client().get(RING_KEY) == b"before")
            until(lambda: _replicas(sentinel) == 1)
            async with asyncio.timeout(60):
                master.kill()
                await put_once_possible(cache, b"after")
                assert await cache.get_sealed() == b"after"
            await cache.close()


def _replicas(sentinel: Server) -> int:
    master: Any = sentinel.client().sentinel_master("ring")
    return int(master["num-slaves"])
